"""Split a dataset into training, held-out, validation and test images."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

from vqlab.data.area import Areas, areas_differ, areas_of
from vqlab.data.category import Category
from vqlab.data.checks.content import content_warnings
from vqlab.data.contact_sheet import image_set_sheet
from vqlab.data.datasets import Layout
from vqlab.data.image_cache import THREADS, ImageCache, ImageFile, ImageSource, SyntheticAnomaly
from vqlab.data.image_set import ImageSet, Progress
from vqlab.data.images import mask_files
from vqlab.data.layouts import read_category
from vqlab.data.settings import DataSettings
from vqlab.data.shifts import shifted, with_shifted_copies
from vqlab.data.source import choose_categories, find_layout, find_root
from vqlab.data.synthetic_anomalies import GENERIC, SHARES
from vqlab.metrics import METRICS
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.decoding import Pixels
from vqlab.text import visible
from vqlab.types import ImageRecord, UserError

MIN_HELD_OUT = 19
"""Held-out images required to guarantee a false reject rate of 5 %: 1 / 0.05 − 1."""
MIN_ANOMALIES, MAX_COPIES = 60, 10
"""Synthetic anomalies per category, unless a held-out image would have more copies."""


@dataclass(frozen=True)
class Splits:
    """Images of one or more categories; the splits are disjoint, except that `validation` starts
    with `held_out`."""

    train: ImageSet
    """Normal images for training, with their copies under capture shifts (`data.shifts`)."""
    held_out: ImageSet
    """Normal images excluded from training, for thresholds and calibration."""
    validation: ImageSet
    """Images for choosing settings and thresholds: `held_out`, then copies of it with synthetic
    anomalies and exact masks, or the test images selected by `data.validation`."""
    test: ImageSet
    """Images for reported metrics, without those in `validation`. May be empty."""
    root: Path
    source: str
    """`synthetic`, or that of the layout, see `Layout.source`."""
    fingerprint: str
    """64 hex digits, see `fingerprint`; independent of the dataset's location."""
    test_fingerprint: str
    """Fingerprint of the images in `test`."""
    categories: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """Warnings on missing, unused or suspicious files."""
    areas: Mapping[str, InspectedArea | None] = field(default_factory=dict)
    """Inspected area of each category; None: all pixels."""

    @cached_property
    def validation_sheet(self) -> Pixels:
        """Contact sheet of `validation`, see `image_set_sheet`."""
        return image_set_sheet(self.validation)

    @property
    def shifted_normals(self) -> tuple[ImageSet, ...]:
        """The normal images of `validation` under each strong shift of `data.shifts`."""
        settings, records = self.validation.settings, self.validation.records
        normals = self.validation.subset(i for i, r in enumerate(records) if not r.label)
        return tuple(shifted(normals, name, 1.0, settings.seed) for name in settings.shifts)

    def require_defined(
        self, metric: str, remedy: str = "use an image metric such as validation/image_auroc"
    ) -> None:
        """Raise UserError for a pixel metric (`validation/pixel_auroc`) if no anomalous image of
        `validation` has a mask."""
        entry = METRICS.get(metric.rpartition("/")[2])
        if entry is None or entry.level == "image":
            return
        if self.validation.settings.validation.source == "test" and not any(
            record.mask for record in self.validation.records
        ):
            raise UserError(
                f"metric {metric} requires masks; no anomalous image in {self.root} that "
                f"data.validation.source=test selects has one; {remedy}, or use "
                "data.validation.source=drawn."
            )

    def write_table(self, path: Path) -> Path:
        """Write a CSV file of all images: category, split, file (relative to `root`), defect.

        The defect of a synthetic anomaly is `drawn_<kind>`, its file the normal image. Returns
        `path`.
        """
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["category", "split", "file", "defect"])
            for split in ("train", "held_out", "validation", "test"):
                records = getattr(self, split).records
                for record in dict.fromkeys(records) if split == "train" else records:
                    relative = Path(os.path.relpath(record.path, self.root)).as_posix()
                    cells = (record.category, split, relative, record.defect)
                    table.writerow(map(visible, cells))
        return path


def load_dataset(
    settings: DataSettings,
    progress: Progress | None = None,
    area_of: Callable[[str], InspectedArea | None] | None = None,
) -> Splits:
    """Find, check, decode and split the images that `settings` name.

    area_of: returns the inspected area of a category for a model to evaluate, instead of the files
    `data.roi` and `data.ignore`.

    Every file is decoded once, so that bad files are reported before training starts: raises
    UserError that lists all of them, or says what is missing and what to do.
    """
    root, _ = find_root(settings, progress)
    layout = find_layout(settings)
    names = choose_categories(settings)
    categories = [read_category(layout, name) for name in names]
    errors = [error for category in categories for error in category.errors]
    if "mean" in names and len(names) > 1:  # a key of reports and comparisons
        errors.append(
            "category mean must be trained alone, because a joint model reports the mean over its "
            "categories by this name; rename the folder, or leave it out."
        )
    if errors:
        raise UserError(" ".join(errors))
    if area_of is None:
        areas = areas_of(settings, names, layout.folders)
    else:
        areas = {name: area_of(name) for name in names}
    cache = ImageCache(settings, areas)
    records = [record for category in categories for record in category.records]
    ImageSet([ImageFile(record) for record in records], cache).load(progress)

    parts = [_hold_out(category, settings) for category in categories]
    train, held_out = ([image for part in parts for image in part[i]] for i in (0, 1))
    test = [ImageFile(record) for category in categories for record in category.test]
    anomalous: list[ImageSource] = []
    if settings.validation.source == "test":
        selected = {image for category in categories for image in _sample_test(category, settings)}
        anomalous += [image for image in test if image in selected]
        test = [image for image in test if image not in selected]
    else:
        anomalous += [image for part in parts for image in _add_anomalies(*part, settings)]
    validation = ImageSet([*held_out, *anomalous], cache)
    return Splits(
        train=ImageSet(with_shifted_copies(train, settings.shifts, settings.seed), cache),
        held_out=validation.subset(range(len(held_out))),
        validation=validation,
        test=ImageSet(test, cache),
        root=root,
        source=layout.source,
        fingerprint=fingerprint(records, layout, areas),
        test_fingerprint=fingerprint((image.record for image in test), layout, areas),
        categories=names,
        areas=areas,
        notes=tuple(note for category in categories for note in _notes(category, layout, cache)),
    )


def _notes(category: Category, layout: Layout, cache: ImageCache) -> list[str]:
    """Return the warnings of `vqlab data check` on a category, from what loading decoded."""
    folder, bits = layout.folders[category.name], cache.settings.bits
    content = content_warnings(
        category, cache.image_properties, cache.mask_properties, folder, bits
    )
    outside = [record for record in category.test if record.path in cache.outside]
    return [*category.warnings, *content, *outside_notes(category, outside)]


def outside_notes(category: Category, outside: Sequence[ImageRecord]) -> list[str]:
    """Return a warning on defects that lie entirely outside the inspected area."""
    if not outside:
        return []
    defects = sum(record.label for record in category.test)
    return [
        f"category {category.name}: the masks of {len(outside)} of {defects} defect images (e.g. "
        f"{outside[0].defect}/{outside[0].path.name}) lie entirely outside the inspected area "
        "(data.roi, data.ignore): image metrics count these images as anomalous, so they usually "
        "escape; pixel metrics exclude them; move them to test/good or change the area."
    ]


def _hold_out(
    category: Category, settings: DataSettings
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Return the training and the held-out images. The latter are those of validation/good, else a
    part of train/good that depends only on seed and category name."""
    images = [ImageFile(record) for record in category.train]
    if category.held_out:
        return images, [ImageFile(record) for record in category.held_out]
    least = max(2, min(MIN_HELD_OUT, len(images) // 5))
    count = min(max(least, round(settings.held_out * len(images))), len(images) - 2)
    rng = np.random.default_rng((settings.seed, _hash(category.name)))
    held_out = set(rng.permutation(len(images))[:count].tolist())
    train = [image for index, image in enumerate(images) if index not in held_out]
    return train, [image for index, image in enumerate(images) if index in held_out]


def _sample_test(category: Category, settings: DataSettings) -> list[ImageFile]:
    """Return the test images for validation: the configured share per defect type and of `good`.

    At least one of each type and never all; a single one stays in test. They depend only on the
    seed and the names. Raises UserError if validation would have no anomalous image.
    """
    selected = []
    for defect, group in groupby(category.test, key=lambda record: record.defect):
        records = list(group)
        count = max(1, min(round(settings.validation.fraction * len(records)), len(records) - 1))
        rng = np.random.default_rng((settings.seed, _hash(category.name), _hash(defect)))
        indices = rng.permutation(len(records))[:count] if len(records) > 1 else ()
        selected += [ImageFile(records[index]) for index in sorted(indices)]
    if not any(image.record.label for image in selected):
        count = sum(record.label for record in category.test)
        raise UserError(
            f"category {category.name} must have at least 2 test images of one defect type to "
            f"share with validation; it has {count} anomalous images; use "
            "data.validation.source=drawn."
        )
    return selected


def _add_anomalies(
    train: Sequence[ImageFile], held_out: Sequence[ImageFile], settings: DataSettings
) -> list[SyntheticAnomaly]:
    """Return copies of the held-out images with synthetic anomalies; kinds occur by their shares.

    Sizes and contrasts are spread evenly within each kind (Latin hypercube sampling): of n copies
    one lies in each n-th of the range.
    """
    seed = (settings.seed, _hash(held_out[0].record.category), 1)
    rng = np.random.default_rng(seed)
    shares = GENERIC if settings.validation.kinds == "generic" else SHARES
    copies = settings.synthetic_defects
    if copies is None:
        copies = max(2, min(MAX_COPIES, math.ceil(MIN_ANOMALIES / len(held_out))))
    images = [image for image in held_out for _ in range(copies)]
    quantiles = (rng.permutation(len(images)) + 0.5) / len(images)
    bounds = np.cumsum(list(shares.values()))
    kinds = np.searchsorted(bounds / bounds[-1], quantiles)
    textures = rng.integers(len(train), size=len(images))
    size_contrast = np.empty((len(images), 2))
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        for column in (0, 1):
            strata = rng.permutation(len(rows)) + rng.random(len(rows))
            size_contrast[rows, column] = strata / len(rows)
    return [
        SyntheticAnomaly(
            image,
            train[textures[index]],
            tuple(shares)[kinds[index]],
            (*seed, index),
            *map(float, size_contrast[index]),
        )
        for index, image in enumerate(images)
    ]


def _hash(name: str) -> int:
    return zlib.crc32(os.fsencode(name))


def dataset_fingerprint(settings: DataSettings) -> str:
    """Return `Splits.fingerprint` of the images that `settings` name, without decoding them."""
    layout, names = find_layout(settings), choose_categories(settings)
    records = [record for name in names for record in read_category(layout, name).records]
    return fingerprint(records, layout, areas_of(settings, names, layout.folders))


def fingerprint(records: Iterable[ImageRecord], layout: Layout, areas: Areas | None = None) -> str:
    """Return the sha256 (hex) of the sorted lines `path, content sha256, label, mask sha256`, and
    of the inspected areas that are not whole images: one for all categories, or one each.

    Paths are relative, see `Layout.relative_path`. A change of a name, a pixel, a label, a mask or
    an area changes the fingerprint; the order of the records and the dataset's location do not.
    """
    records = list(records)
    with ThreadPoolExecutor(THREADS) as pool:
        lines = sorted(pool.map(lambda record: _fingerprint_line(record, layout), records))
    digests = {name: area.digest for name, area in sorted((areas or {}).items()) if area}
    if areas_differ(areas or {}):
        lines += [f"inspected area\t{digest}\t{name}" for name, digest in digests.items()]
    elif digests:
        lines.append(f"inspected area\t{next(iter(digests.values()))}")
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _fingerprint_line(record: ImageRecord, layout: Layout) -> str:
    masks = [] if record.mask is None else mask_files(record.mask)
    mask = "\t".join(_file_digest(file) for file in masks)
    path = layout.relative_path(record.path)
    return "\t".join([path, _file_digest(record.path), str(record.label), mask])


def _file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file; each version of a file is read once per process."""
    state = path.stat()
    return _cached_digest(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _cached_digest(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
