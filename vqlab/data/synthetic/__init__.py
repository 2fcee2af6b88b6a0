"""The built-in synthetic set: four categories in MVTec AD's layout, drawn on first use.

A part is drawn twice, without and with its defect, and photographed by the same camera: the mask
is where the two pictures differ. `make_synthetic` is the only thing to call.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from filelock import FileLock

from vqlab.data.synthetic import cable, cable_damage, fabric, gear, wood
from vqlab.data.synthetic.photograph import set_up
from vqlab.data.synthetic.surface import Array, Surface
from vqlab.errors import UserError, did_you_mean

VERSION = 2
"""Goes up whenever other pictures are drawn; sets of another version are drawn anew."""
MARKER = "synthetic.json"
"""File in the root that says which version, seed and categories lie there."""
LAMP = -2.2
"""Where the light comes from, rad (image axes): the upper left."""
SEEN = 0.035
"""Difference in [0, 1], in any channel, from which a pixel belongs to the mask."""
SMALLEST = 14
"""A defect changes at least so many pixels; otherwise another one is drawn."""

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


class Part(Protocol):
    """One specimen of a category."""

    def surface(self) -> Surface: ...


@dataclass(frozen=True)
class Recipe:
    """How a category is drawn, and how many pictures it has."""

    draw: Callable[[np.random.Generator], Any]
    damage: Callable[[Any, str, np.random.Generator], Any]
    defects: tuple[str, ...]
    train: int
    good: int
    each: int
    """Test pictures of every type of defect."""
    swing: float = 0.5
    """By how much the lamp moves, rad."""
    noise: float = 0.016
    """Deviation of the sensor's noise."""


_RECIPES = {
    "cable": Recipe(cable.draw, cable_damage.damage, cable_damage.DEFECTS, 120, 24, 8),
    "fabric": Recipe(fabric.draw, fabric.damage, fabric.DEFECTS, 60, 15, 6),
    "gear": Recipe(gear.draw, gear.damage, gear.DEFECTS, 120, 24, 10, swing=0.3, noise=0.012),
    "wood": Recipe(wood.draw, wood.damage, wood.DEFECTS, 60, 15, 6),
}
CATEGORIES = tuple(_RECIPES)


def make_synthetic(
    root: Path,
    categories: Iterable[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Draw the set (or some of its categories) into the folder `root` unless it is there already.

    Returns `root`. A category appears whole or not at all, and two processes may ask at once. What
    was drawn by another version or with another seed is replaced. Raises UserError where `root`
    holds something else, cannot be written, or a category does not exist.
    """
    wanted = tuple(CATEGORIES if categories is None else dict.fromkeys(categories))
    unknown = [name for name in wanted if name not in CATEGORIES]
    if unknown:
        raise UserError(
            f"the synthetic set has the categories {', '.join(CATEGORIES)}; "
            f"got {', '.join(unknown)}; {did_you_mean(unknown[0], CATEGORIES)}".rstrip("; ")
        )
    if not _missing(root, wanted, seed):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(root.parent / f".{root.name}.lock"):
            _draw_missing(root, wanted, seed, progress)
    except OSError as error:
        raise UserError(
            f"the synthetic set cannot be written to {root}: {error.strerror or error}; "
            "give a folder with 100 MB free that you may write to."
        ) from error
    return root


def sample(category: str, seed: int, index: int, defect: str | None = None) -> tuple[Array, Array]:
    """One picture (256, 256, 3) uint8 RGB and its mask (256, 256) bool, decided by the arguments.

    Without a defect the mask is empty. `index` numbers the specimens of a category and a type.
    """
    good, broken, mask = twins(category, seed, index, defect)
    return (good if defect is None else broken), mask


def twins(category: str, seed: int, index: int, defect: str | None) -> tuple[Array, Array, Array]:
    """The same specimen without and with its defect, as in `sample`, and the mask."""
    recipe = _RECIPES[category]
    key = (seed, zlib.crc32(f"{category}/{defect}".encode()), index)
    rng = np.random.default_rng(key)
    part: Part = recipe.draw(rng)
    camera = set_up(rng, LAMP, recipe.swing, recipe.noise)
    clean = camera.shoot(part.surface())
    good = camera.develop(clean)
    if defect is None:
        return good, good, np.zeros(clean.shape[:2], np.bool_)
    while True:
        worse: Part = recipe.damage(part, defect, rng)
        broken = camera.shoot(worse.surface())
        mask = _difference(clean, broken)
        if mask.sum() >= SMALLEST:
            return good, camera.develop(broken), mask


def _difference(clean: Array, broken: Array) -> Array:
    """Where two pictures differ visibly (256, 256) bool, small gaps closed and specks left out."""
    seen = (np.abs(clean - broken).max(axis=2) > SEEN).astype(np.uint8)
    room = cv2.copyMakeBorder(seen, 4, 4, 4, 4, cv2.BORDER_CONSTANT)
    round_5 = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed = cv2.morphologyEx(room, cv2.MORPH_CLOSE, round_5)[4:-4, 4:-4]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(closed)
    large = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= 6]
    return np.isin(labels, large)


def _missing(root: Path, wanted: tuple[str, ...], seed: int) -> list[str]:
    """The wanted categories that are not there yet in this version and with this seed."""
    try:
        made = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return list(wanted)
    if made.get("version") != VERSION or made.get("seed") != seed:
        return list(wanted)
    return [name for name in wanted if name not in made["made"] or not (root / name).is_dir()]


def _draw_missing(
    root: Path, wanted: tuple[str, ...], seed: int, progress: Progress | None
) -> None:
    missing = _missing(root, wanted, seed)
    if missing and root.exists() and not (root / MARKER).exists() and any(root.iterdir()):
        raise UserError(
            f"the synthetic set needs a folder of its own; {root} holds other files; "
            "give an empty or a new folder."
        )
    root.mkdir(exist_ok=True)
    for left_over in root.glob(".*-*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    if len(_missing(root, CATEGORIES, seed)) == len(CATEGORIES):  # another version, or nothing yet
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
        there = [other for other in CATEGORIES if other not in _missing(root, CATEGORIES, seed)]
        _write_marker(root, seed, sorted({*there, name}))


def _plan(category: str) -> Iterator[tuple[str, str | None, int]]:
    """(split, defect, index) of every picture of a category."""
    recipe = _RECIPES[category]
    yield from (("train", None, index) for index in range(recipe.train))
    yield from (("test", None, index) for index in range(recipe.good))
    for defect in recipe.defects:
        yield from (("test", defect, index) for index in range(recipe.each))


def _write_sample(
    folder: Path, category: str, seed: int, place: tuple[str, str | None, int]
) -> None:
    split, defect, index = place
    first = _RECIPES[category].train if (split, defect) == ("test", None) else 0
    picture, mask = sample(category, seed, first + index, defect)
    _write(folder / split / (defect or "good") / f"{index:03d}.png", picture[..., ::-1])
    if defect is not None:
        masks = folder / "ground_truth" / defect
        _write(masks / f"{index:03d}_mask.png", mask.astype(np.uint8) * 255)


def _write(path: Path, pixels: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(data.tobytes())


def _write_marker(root: Path, seed: int, made: list[str]) -> None:
    beside = root / f".{MARKER}"
    text = json.dumps({"version": VERSION, "seed": seed, "made": made})
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(root / MARKER)
