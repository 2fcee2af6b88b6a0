"""The built-in synthetic set: four categories in MVTec AD's layout, rendered on first use.

A part is rendered twice by the same camera, without and with a defect; the mask is where the two
images differ. Use `make_synthetic`.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from numpy.random import Generator

from vqlab.data.synthetic import cable, cable_damage, fabric, gear, wood
from vqlab.data.synthetic.photograph import random_camera
from vqlab.data.synthetic.surface import Array
from vqlab.errors import UserError, did_you_mean

VERSION = 2
"""Increased whenever the images change; sets of another version are rendered again."""
MARKER = "synthetic.json"
"""File in the root with version, seed and categories."""
LIGHT_AZIMUTH = -2.2
"""Direction of the light in rad (image axes): from the upper left."""
MIN_DIFFERENCE = 0.035
"""Smallest difference in [0, 1], in any channel, of a pixel in the mask."""
MIN_PIXELS = 14
"""Smallest number of pixels in a mask; otherwise another defect is drawn."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True)
class CategorySpec:
    """How a category is rendered, and its numbers of images.

    draw: returns a random specimen with a method `surface`; damage: adds a defect of each type.
    """

    draw: Callable[[Generator], Any]
    damage: Mapping[str, Callable[[Any, Generator], Any]]
    defects: tuple[str, ...]
    train: int
    good: int
    each: int
    """Test images per defect type."""
    swing: float = 0.5
    """Range of the light's azimuth, rad."""
    noise: float = 0.016
    """Standard deviation of the sensor noise."""


_SPECS = {
    "cable": CategorySpec(cable.draw, cable_damage.DAMAGE, tuple(cable_damage.DAMAGE), 120, 24, 8),
    "fabric": CategorySpec(fabric.draw, fabric.DAMAGE, tuple(fabric.DAMAGE), 60, 15, 6),
    "gear": CategorySpec(gear.draw, gear.DAMAGE, tuple(gear.DAMAGE), 120, 24, 10, 0.3, 0.012),
    "wood": CategorySpec(wood.draw, wood.DAMAGE, tuple(wood.DAMAGE), 60, 15, 6),
}
CATEGORIES = tuple(_SPECS)


def make_synthetic(
    root: Path,
    categories: Iterable[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Render the set (or some of its categories) in the folder `root` unless it exists already.

    Returns `root`. Each category is written atomically; concurrent calls are safe. Images of
    another version or seed are replaced. Raises UserError if `root` contains other files or cannot
    be written, or if a category does not exist.
    """
    requested = tuple(CATEGORIES if categories is None else dict.fromkeys(categories))
    unknown = [name for name in requested if name not in CATEGORIES]
    if unknown:
        raise UserError(
            f"categories of the synthetic set must be among {', '.join(CATEGORIES)}; "
            f"got {', '.join(unknown)}; {did_you_mean(unknown[0], CATEGORIES)}".rstrip("; ")
        )
    if not _missing(root, requested, seed):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.parent / f".{root.name}.lock"):
            _render_missing(root, requested, seed, progress)
    except OSError as error:
        raise UserError(
            f"the synthetic set cannot be written to {root}: {error.strerror or error}; "
            "choose a writable folder with 100 MB of free space."
        ) from error
    return root


def sample(category: str, seed: int, index: int, defect: str | None = None) -> tuple[Array, Array]:
    """Return an image (256, 256, 3) uint8 RGB and its mask (256, 256) bool, empty without defect.

    index: number of the specimen within its category and defect type. Deterministic.
    """
    good, broken, mask = twins(category, seed, index, defect)
    return (good if defect is None else broken), mask


def twins(category: str, seed: int, index: int, defect: str | None) -> tuple[Array, Array, Array]:
    """Return images of one specimen without and with its defect, as in `sample`, and the mask."""
    spec = _SPECS[category]
    key = (seed, zlib.crc32(f"{category}/{defect}".encode()), index)
    rng = np.random.default_rng(key)
    part = spec.draw(rng)
    camera = random_camera(rng, LIGHT_AZIMUTH, spec.swing, spec.noise)
    clean = camera.render(part.surface())
    good = camera.expose(clean)
    if defect is None:
        return good, good, np.zeros(clean.shape[:2], np.bool_)
    while True:
        broken = camera.render(spec.damage[defect](part, rng).surface())
        mask = _difference(clean, broken)
        if mask.sum() >= MIN_PIXELS:
            return good, camera.expose(broken), mask


def _difference(clean: Array, broken: Array) -> Array:
    """Return where two images differ visibly, (256, 256) bool, without small gaps and specks."""
    differs = (np.abs(clean - broken).max(axis=2) > MIN_DIFFERENCE).astype(np.uint8)
    padded = cv2.copyMakeBorder(differs, 4, 4, 4, 4, cv2.BORDER_CONSTANT)
    round_5 = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, round_5)[4:-4, 4:-4]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    large = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= 6]
    return np.isin(labels, large)


def _missing(root: Path, requested: tuple[str, ...], seed: int) -> list[str]:
    """Return the requested categories that do not exist in this version and with this seed."""
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return list(requested)
    if marker.get("version") != VERSION or marker.get("seed") != seed:
        return list(requested)
    return [name for name in requested if name not in marker["made"] or not (root / name).is_dir()]


def _render_missing(
    root: Path, requested: tuple[str, ...], seed: int, progress: Progress | None
) -> None:
    missing = _missing(root, requested, seed)
    if missing and root.exists() and not (root / MARKER).exists() and any(root.iterdir()):
        raise UserError(
            f"the synthetic set must be in its own folder; {root} contains other files; "
            "choose an empty or new folder."
        )
    root.mkdir(exist_ok=True)
    for leftover in root.glob(".*-*"):  # of a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    if len(_missing(root, CATEGORIES, seed)) == len(CATEGORIES):  # another version, or new
        _write_marker(root, seed, [])
        for name in CATEGORIES:
            shutil.rmtree(root / name, ignore_errors=True)
    plans = {name: list(_plan(name)) for name in missing}
    total, done = sum(len(plan) for plan in plans.values()), 0
    for name, plan in plans.items():
        with (
            tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as folder,
            ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
        ):
            write = functools.partial(_write_sample, Path(folder) / name, name, seed)
            for _ in pool.map(write, plan):
                done += 1
                if progress is not None:
                    progress(done, total)
            shutil.rmtree(root / name, ignore_errors=True)
            (Path(folder) / name).rename(root / name)
        existing = [other for other in CATEGORIES if other not in _missing(root, CATEGORIES, seed)]
        _write_marker(root, seed, sorted({*existing, name}))


def _plan(category: str) -> Iterator[tuple[str, str | None, int]]:
    """Yield (split, defect, index) of every image of a category."""
    spec = _SPECS[category]
    yield from (("train", None, index) for index in range(spec.train))
    yield from (("test", None, index) for index in range(spec.good))
    for defect in spec.defects:
        yield from (("test", defect, index) for index in range(spec.each))


def _write_sample(
    folder: Path, category: str, seed: int, item: tuple[str, str | None, int]
) -> None:
    split, defect, index = item
    first = _SPECS[category].train if (split, defect) == ("test", None) else 0
    image, mask = sample(category, seed, first + index, defect)
    _write(folder / split / (defect or "good") / f"{index:03d}.png", image[..., ::-1])
    if defect is not None:
        masks = folder / "ground_truth" / defect
        _write(masks / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255)


def _write(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(data.tobytes())


def _write_marker(root: Path, seed: int, categories: list[str]) -> None:
    temporary = root / f".{MARKER}"
    text = json.dumps({"version": VERSION, "seed": seed, "made": categories})
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(root / MARKER)
