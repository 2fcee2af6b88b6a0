"""Small datasets on disk in every supported layout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
    """Write noise of size (H, W) that depends on the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, size: tuple[int, int] = (20, 24), value: int = 255) -> Path:
    """Write a mask with one rectangle of `value` on 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[4:9, 6:12] = value
    Image.fromarray(pixels).save(path)
    return path


def make_category(
    root: Path,
    name: str = "nut",
    train: int = 6,
    good: int = 2,
    defects: int = 2,
    kind: str = "hole",
    suffix: str = "_mask",
    size: tuple[int, int] = (20, 24),
) -> Path:
    """Write a category in the layout of MVTec AD; return its folder."""
    folder = root / name
    seed = sum(name.encode()) * 1000
    for number in range(train):
        write_image(folder / f"train/good/{number:03d}.png", seed + number, size)
    for number in range(good):
        write_image(folder / f"test/good/{number:03d}.png", seed + 100 + number, size)
    for number in range(defects):
        write_image(folder / f"test/{kind}/{number:03d}.png", seed + 200 + number, size)
        write_mask(folder / f"ground_truth/{kind}/{number:03d}{suffix}.png", size)
    return folder


def make_visa(
    root: Path, name: str = "candle", train: int = 6, good: int = 2, bad: int = 2
) -> Path:
    """Write a category of VisA as downloaded and add it to the split file; return the split
    file."""
    split = root / "split_csv/1cls.csv"
    new = not split.exists()
    split.parent.mkdir(parents=True, exist_ok=True)
    data = root / name / "Data"
    with split.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["object", "split", "label", "image", "mask"])
        for number in range(train + good):
            path = write_image(data / f"Images/Normal/{number:04d}.JPG", number)
            part = "train" if number < train else "test"
            writer.writerow([name, part, "normal", path.relative_to(root).as_posix(), ""])
        for number in range(bad):
            path = write_image(data / f"Images/Anomaly/{number:03d}.JPG", 500 + number)
            mask = write_mask(data / f"Masks/Anomaly/{number:03d}.png", value=number + 1)
            row = [p.relative_to(root).as_posix() for p in (path, mask)]
            writer.writerow([name, "test", "anomaly", *row])
    return split
