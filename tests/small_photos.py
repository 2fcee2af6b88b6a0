"""Photos of parts, small by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 40, 30


def write_photo(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    """Write a grey gradient with noise and a square whose brightness increases with the seed."""
    rng = np.random.default_rng(seed)
    grey = np.linspace(110, 140, SIZE[0])[None, :, None] + rng.normal(0, 5, (SIZE[1], SIZE[0], 3))
    grey[10:16, 10:16] += 4 * (seed * 7 % 31)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).resize(size).save(path)
    return path
