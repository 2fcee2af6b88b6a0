"""A dataset whose categories differ in aspect ratio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def tall_and_square(root: Path) -> Path:
    """Write categories `square` and `tall` (three times as high as wide); return the folder."""
    rng = np.random.default_rng(0)
    for category, size in (("square", (48, 48)), ("tall", (144, 48))):
        for split, defect, count in (
            ("train", "good", 12), ("test", "good", 3), ("test", "hole", 3),
        ):  # fmt: skip
            for number in range(count):
                pixels = rng.integers(90, 160, (*size, 3), np.uint8)
                mask = np.zeros(size, np.uint8)
                if defect == "hole":
                    mask[10:24, 12:30] = 255
                    pixels[mask > 0] = 0
                    truth = root / category / "ground_truth" / defect / f"{number:03d}_mask.png"
                    truth.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth)
                path = root / category / split / defect / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return root
