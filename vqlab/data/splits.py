"""A data set becomes the four sets that training, choosing and testing see."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from vqlab.data.defects import SHARES
from vqlab.data.image_set import THREADS, Drawn, ImageSet, Memory, Photo, Progress
from vqlab.data.layouts import Category, read_category, recognise
from vqlab.data.locate import choose_categories, find_root
from vqlab.data.settings import DataSettings
from vqlab.types import Sample, UserError


@dataclass(frozen=True)
class Splits:
    """The images of one or more categories, each image in one role (`validation` draws on
    `held_out`)."""

    train: ImageSet
    """Normals trained on."""
    held_out: ImageSet
    """Normals never trained on: thresholds and calibration come from them."""
    validation: ImageSet
    """`held_out`, then copies of it with drawn defects and their exact masks."""
    test: ImageSet
    root: Path
    source: str
    """`synthetic`, `MVTec AD layout` or `VisA layout`."""
    fingerprint: str
    """64 hex digits, see `fingerprint`; the same files give the same, wherever they lie."""
    categories: tuple[str, ...]


def load_dataset(settings: DataSettings, progress: Progress | None = None) -> Splits:
    """Find, check and decode the images that `settings` ask for.

    Every file is read once here, so a bad one is known before any work starts: raises UserError
    that names all of them, or says what is missing and what to do.
    """
    root, source = find_root(settings, progress)
    names = choose_categories(settings)
    layout = recognise(root)
    categories = [read_category(layout, name) for name in names]
    faults = [fault for category in categories for fault in category.faults]
    if faults:
        raise UserError(" ".join(faults))
    memory = Memory(settings)
    samples = [s for category in categories for s in [*category.train, *category.test]]
    ImageSet([Photo(sample) for sample in samples], memory).load(progress)

    parts = [_split(category, settings) for category in categories]
    train, held_out = ([photo for part in parts for photo in part[i]] for i in (0, 1))
    drawn = [item for part in parts for item in _draw(part[0], part[1], settings)]
    test = [Photo(sample) for category in categories for sample in category.test]
    return Splits(
        train=ImageSet(train, memory),
        held_out=ImageSet(held_out, memory),
        validation=ImageSet([*held_out, *drawn], memory),
        test=ImageSet(test, memory),
        root=root,
        source=source,
        fingerprint=fingerprint(samples, layout.root),
        categories=names,
    )


def _split(category: Category, settings: DataSettings) -> tuple[list[Photo], list[Photo]]:
    """Training and held-out photos of a category; which ones depends on seed and name only."""
    photos = [Photo(sample) for sample in category.train]
    count = min(max(2, round(settings.held_out * len(photos))), len(photos) - 2)
    rng = np.random.default_rng((settings.seed, _number(category.name)))
    out = set(rng.permutation(len(photos))[:count].tolist())
    train = [photo for index, photo in enumerate(photos) if index not in out]
    return train, [photo for index, photo in enumerate(photos) if index in out]


def _draw(train: Sequence[Photo], held_out: Sequence[Photo], settings: DataSettings) -> list[Drawn]:
    """Each held-out photo with drawn defects; every kind comes as often as `SHARES` say, evenly."""
    seed = (settings.seed, _number(held_out[0].sample.category), 1)
    rng = np.random.default_rng(seed)
    canvases = [photo for photo in held_out for _ in range(settings.synthetic_defects)]
    places = (rng.permutation(len(canvases)) + 0.5) / len(canvases)
    bounds = np.cumsum(list(SHARES.values()))
    kinds = np.searchsorted(bounds / bounds[-1], places)
    textures = rng.integers(len(train), size=len(canvases))
    return [
        Drawn(photo, train[textures[number]], tuple(SHARES)[kinds[number]], (*seed, number))
        for number, photo in enumerate(canvases)
    ]


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def fingerprint(samples: Iterable[Sample], root: Path) -> str:
    """sha256 (hex) over the sorted lines `relative path, content sha256, label, mask sha256`.

    Paths are relative to `root`, the folder of the categories. Any change of a name, a pixel, a
    label or a mask changes it; the order of the samples and the place of the folder do not.
    """
    samples = list(samples)
    with ThreadPoolExecutor(THREADS) as pool:
        lines = sorted(pool.map(lambda sample: _line(sample, root), samples))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _line(sample: Sample, root: Path) -> str:
    mask = _content(sample.mask) if sample.mask is not None else ""
    path = sample.path.relative_to(root).as_posix()
    return "\t".join([path, _content(sample.path), str(sample.label), mask])


def _content(path: Path) -> str:
    """sha256 (hex) of a file; each version of a file is read once per process."""
    state = path.stat()
    return _content_of(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _content_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
