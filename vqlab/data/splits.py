"""A data set becomes the four sets that training, choosing and testing see."""

from __future__ import annotations

import csv
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

from vqlab.data.category import Category
from vqlab.data.contact_sheet import set_sheet
from vqlab.data.defects import SHARES
from vqlab.data.image_set import THREADS, Drawn, ImageSet, Item, Memory, Photo, Progress
from vqlab.data.images import Pixels
from vqlab.data.layouts import Layout, read_category
from vqlab.data.meaning import meaning_warnings
from vqlab.data.settings import DataSettings
from vqlab.data.source import choose_categories, find_layout, find_root
from vqlab.text import visible
from vqlab.types import Sample, UserError

ENOUGH = 19
"""Held-out images from which on a false-reject rate of 5 % can be promised: 1 / 0.05 − 1."""


@dataclass(frozen=True)
class Splits:
    """The images of one or more categories, each image in one role (but `validation` begins with
    `held_out`)."""

    train: ImageSet
    """Normals trained on."""
    held_out: ImageSet
    """Normals never trained on: thresholds and calibration come from them."""
    validation: ImageSet
    """What chooses settings and thresholds: `held_out`, then copies of it with drawn defects and
    their exact masks, or the test images that `data.validation` takes."""
    test: ImageSet
    """What is reported; none of it is in `validation`. Empty where there are no test images."""
    root: Path
    source: str
    """`synthetic` or that of the layout, see `Layout.source`."""
    fingerprint: str
    """64 hex digits, see `fingerprint`; the same files give the same, wherever they lie."""
    test_fingerprint: str
    """The same of the images in `test` alone."""
    categories: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Sentences on what is missing or not used."""

    @cached_property
    def validation_sheet(self) -> Pixels:
        """Some of `validation` as one picture, see `set_sheet`; drawn once."""
        return set_sheet(self.validation)

    def write_table(self, path: Path) -> Path:
        """Write every set's images as a CSV: category, split, file (relative to `root`), defect.

        A drawn copy stands there as the photo it is drawn on and `drawn_<kind>`. Returns `path`.
        """
        sets = ("train", "held_out", "validation", "test")
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["category", "split", "file", "defect"])
            for name in sets:
                for sample in getattr(self, name).samples:
                    place = Path(os.path.relpath(sample.path, self.root)).as_posix()
                    cells = (sample.category, name, place, sample.defect)
                    table.writerow(map(visible, cells))
        return path


def load_dataset(settings: DataSettings, progress: Progress | None = None) -> Splits:
    """Find, check and decode the images that `settings` ask for.

    Every file is read once here, so a bad one is known before any work starts: raises UserError
    that names all of them, or says what is missing and what to do.
    """
    root, _ = find_root(settings, progress)
    layout = find_layout(settings)
    names = choose_categories(settings)
    categories = [read_category(layout, name) for name in names]
    faults = [fault for category in categories for fault in category.faults]
    if faults:
        raise UserError(" ".join(faults))
    memory = Memory(settings)
    samples = [s for category in categories for s in [*category.train, *category.test]]
    ImageSet([Photo(sample) for sample in samples], memory).load(progress)

    parts = [_split(category, settings) for category in categories]
    train, held_out = ([photo for part in parts for photo in part[i]] for i in (0, 1))
    test = [Photo(sample) for category in categories for sample in category.test]
    judges: list[Item] = []
    if settings.validation.source == "test":
        taken = {photo for category in categories for photo in _take(category, settings)}
        judges += [photo for photo in test if photo in taken]
        test = [photo for photo in test if photo not in taken]
    else:
        judges += [item for part in parts for item in _draw(part[0], part[1], settings)]
    validation = ImageSet([*held_out, *judges], memory)
    return Splits(
        train=ImageSet(train, memory),
        held_out=validation.subset(range(len(held_out))),
        validation=validation,
        test=ImageSet(test, memory),
        root=root,
        source=layout.source,
        fingerprint=fingerprint(samples, layout),
        test_fingerprint=fingerprint((photo.sample for photo in test), layout),
        categories=names,
        notes=tuple(note for category in categories for note in _notes(category, layout, memory)),
    )


def _notes(category: Category, layout: Layout, memory: Memory) -> list[str]:
    """The warnings of `vqlab data check` on a category, from what loading saw."""
    folder = layout.folders[category.name]
    bits = memory.settings.bits
    seen = meaning_warnings(category, memory.facts, memory.mask_facts, folder, bits)
    return [*category.remarks, *seen]


def _split(category: Category, settings: DataSettings) -> tuple[list[Photo], list[Photo]]:
    """Training and held-out photos of a category; which ones depends on seed and name only."""
    photos = [Photo(sample) for sample in category.train]
    least = max(2, min(ENOUGH, len(photos) // 5))
    count = min(max(least, round(settings.held_out * len(photos))), len(photos) - 2)
    rng = np.random.default_rng((settings.seed, _number(category.name)))
    out = set(rng.permutation(len(photos))[:count].tolist())
    train = [photo for index, photo in enumerate(photos) if index not in out]
    return train, [photo for index, photo in enumerate(photos) if index in out]


def _take(category: Category, settings: DataSettings) -> list[Photo]:
    """The test photos that go to validation: the set share of each defect type and of `good`.

    At least one of each type and never all; a single one stays in test. Which ones depends on the
    seed and the names only. Raises UserError where that leaves validation without a defect.
    """
    taken = []
    for defect, group in groupby(category.test, key=lambda sample: sample.defect):
        samples = list(group)
        count = max(1, min(round(settings.validation.fraction * len(samples)), len(samples) - 1))
        rng = np.random.default_rng((settings.seed, _number(category.name), _number(defect)))
        chosen = rng.permutation(len(samples))[:count] if len(samples) > 1 else ()
        taken += [Photo(samples[index]) for index in sorted(chosen)]
    if not any(photo.sample.label for photo in taken):
        defects = sum(sample.label for sample in category.test)
        raise UserError(
            f"category {category.name} must have 2 test images of one kind of defect to share "
            f"them with validation; it has {defects} of any kind; use data.validation.source=drawn."
        )
    return taken


def _draw(train: Sequence[Photo], held_out: Sequence[Photo], settings: DataSettings) -> list[Drawn]:
    """Each held-out photo with drawn defects; every kind comes as often as `SHARES` say, evenly.

    So do small and large ones within each kind, and faint and strong ones: of n copies one lies in
    each n-th of the range (Latin hypercube sampling).
    """
    seed = (settings.seed, _number(held_out[0].sample.category), 1)
    rng = np.random.default_rng(seed)
    canvases = [photo for photo in held_out for _ in range(settings.synthetic_defects)]
    places = (rng.permutation(len(canvases)) + 0.5) / len(canvases)
    bounds = np.cumsum(list(SHARES.values()))
    kinds = np.searchsorted(bounds / bounds[-1], places)
    textures = rng.integers(len(train), size=len(canvases))
    spread = np.empty((len(canvases), 2))
    for kind in np.unique(kinds):
        here = np.flatnonzero(kinds == kind)
        for column in (0, 1):
            spread[here, column] = (rng.permutation(len(here)) + rng.random(len(here))) / len(here)
    return [
        Drawn(
            photo,
            train[textures[number]],
            tuple(SHARES)[kinds[number]],
            (*seed, number),
            float(spread[number, 0]),
            float(spread[number, 1]),
        )
        for number, photo in enumerate(canvases)
    ]


def _number(name: str) -> int:
    return zlib.crc32(os.fsencode(name))


def fingerprint(samples: Iterable[Sample], layout: Layout) -> str:
    """sha256 (hex) over the sorted lines `relative path, content sha256, label, mask sha256`.

    Paths are relative to the folder of the categories (see `Layout.place`). Any change of a name, a
    pixel, a label or a mask changes it; the order of the samples and the folder's place do not.
    """
    samples = list(samples)
    with ThreadPoolExecutor(THREADS) as pool:
        lines = sorted(pool.map(lambda sample: _line(sample, layout), samples))
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _line(sample: Sample, layout: Layout) -> str:
    mask = _content(sample.mask) if sample.mask is not None else ""
    return "\t".join([layout.place(sample.path), _content(sample.path), str(sample.label), mask])


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
