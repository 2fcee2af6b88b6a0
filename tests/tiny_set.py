"""A dataset of small images in the layout of MVTec AD, and recipes that train on it quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_tiny_set(root: Path, categories: tuple[str, ...] = ("part",), seed: int = 0) -> Path:
    """Write grey discs of 32 px on a gradient; the defect is a bright square with an exact mask."""
    rng = np.random.default_rng(seed)
    for category in categories:
        for split, kind, count in (("train", "good", 14), ("test", "good", 4), ("test", "hole", 4)):
            for index in range(count):
                image, mask = _picture(rng, kind == "hole")
                _save(root / category / split / kind / f"{index:03d}.png", image)
                if kind == "hole":
                    name = f"{index:03d}_mask.png"
                    _save(root / category / "ground_truth" / kind / name, mask)
    return root


def _picture(rng: np.random.Generator, defect: bool) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:32, :32]
    disc = np.hypot(rows - 16, columns - 16) < 10
    grey = 60 + columns + 90 * disc + rng.normal(0, 6, (32, 32))
    mask = np.zeros((32, 32), bool)
    if defect:
        top, left = rng.integers(8, 19, 2)
        mask[top : top + 5, left : left + 5] = True
        grey = np.where(mask, 250, grey)
    image = np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    return image, mask.astype(np.uint8) * 255


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def tiny_recipe(root: Path, category: str = "part", **training: Any) -> dict[str, Any]:
    """Return the recipe of a VQ-VAE on the set; `training` adds to that section."""
    return {
        "data": {"root": str(root), "categories": [category], "image_size": 32},
        "detector": {
            "name": "vqvae",
            "hidden": 4,
            "dim": 8,
            "warmup": 1,
            "codebook_size": 16,
            "scoring": {"context_steps": 3},
        },
        "training": {"epochs": 2, "device": "cpu", "threads": 1, **training},
        "evaluation": {"resamples": 50},
    }


def baseline_recipe(root: Path, category: str = "part") -> dict[str, Any]:
    """Return the recipe of the detector without training."""
    return {**tiny_recipe(root, category, epochs=0), "detector": {"name": "mean_image"}}
