"""Check a dataset (`vqlab data check`): report every problem, not only the first."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vqlab.data.area import Areas
from vqlab.data.category import Category
from vqlab.data.checks.content import content_warnings
from vqlab.data.datasets import Counts, Dataset, Layout, published_counts
from vqlab.data.image_cache import THREADS
from vqlab.data.image_set import Progress
from vqlab.data.inspection import ImageProperties, MaskProperties, inspect_image, inspect_mask
from vqlab.data.layouts import dataset_in, detect_layout, read_category, require_categories
from vqlab.data.source import source_of
from vqlab.data.splits import fingerprint, outside_notes
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.bit_depth import BadFile
from vqlab.types import ImageRecord


@dataclass(frozen=True)
class CheckRow:
    """Figures of one category, compared with the published dataset of that name."""

    category: str
    counts: Counts
    masks: int
    sizes: str
    """`256x256`, or `640x480 to 1024x1024` (width x height)."""
    published: str
    """`as MVTec AD`, `MVTec AD has 224 / 58 / 92`, or empty."""
    fingerprint: str
    """Fingerprint of this category; empty if a file cannot be read."""


@dataclass
class CheckReport:
    """Result of `check_dataset`. Errors prevent using the dataset; warnings do not."""

    root: Path
    source: str
    rows: list[CheckRow] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprint: str = ""
    """Fingerprint of all checked categories; empty if a file cannot be read."""


class _Inspection(NamedTuple):
    """A record with the properties of its files; None for a file that cannot be read."""

    record: ImageRecord
    image: ImageProperties | None
    mask: MaskProperties | None
    errors: list[str]
    outside: bool = False
    """Whether the mask lies entirely outside the inspected area."""


def check_dataset(
    root: Path | Layout,
    categories: Sequence[str] | None = None,
    progress: Progress | None = None,
    bits: int | None = None,
    areas: Areas | None = None,
) -> CheckReport:
    """Decode every image and mask of a dataset and report all problems.

    Checks image counts against the published ones, masks against their images, bit depth, unused
    images, duplicates and unreadable files. bits: see `data.bits`. areas: inspected
    areas by category, which must fit the images. Raises UserError only if `root` is no dataset or
    lacks one of `categories`.
    """
    layout = root if isinstance(root, Layout) else detect_layout(root)
    names = sorted(layout.folders) if categories is None else list(categories)
    require_categories(layout, names)
    if isinstance(root, Layout):
        report = CheckReport(layout.root, layout.source)
    else:
        report = CheckReport(root, source_of(root))
    areas = {name: (areas or {}).get(name) for name in names}
    contents = [read_category(layout, name) for name in names]
    records = [record for category in contents for record in category.records]
    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for category in contents:
            inspections = []
            inspect = partial(_inspect, bits=bits, area=areas[category.name])
            for inspection in pool.map(inspect, category.records):
                inspections.append(inspection)
                done += 1
                if progress is not None:
                    progress(done, len(records))
            _report_category(report, category, inspections, layout, bits, areas[category.name])
    _compare_totals(report, layout.dataset)
    if all(row.fingerprint for row in report.rows):
        report.fingerprint = fingerprint(records, layout, areas)
    return report


def _inspect(record: ImageRecord, bits: int | None, area: InspectedArea | None) -> _Inspection:
    """Decode the files of a record; collect errors instead of raising them."""
    errors: list[str] = []
    image, mask_properties, outside = None, None, False
    try:
        _, image = inspect_image(record.path, bits)
        if area is not None and not area.fits(image.size):
            errors.append(f"{record.path}: {area.mismatch(image.size)}.")
    except BadFile as error:
        errors.append(f"{error.path}: {error.reason}.")
    try:
        if record.mask is not None:
            mask, mask_properties = inspect_mask(record.mask)
            if image is not None and mask.shape != image.size:
                errors.append(
                    f"{record.mask}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, "
                    f"its image {image.size[1]}x{image.size[0]}."
                )
            elif area is not None and area.fits(mask.shape) and mask.any():
                outside = not (mask & area.at(mask.shape)).any()
    except BadFile as error:
        errors.append(f"{error.path}: {error.reason}.")
    return _Inspection(record, image, mask_properties, errors, outside)


def _report_category(
    report: CheckReport,
    category: Category,
    inspections: Sequence[_Inspection],
    layout: Layout,
    bits: int | None,
    area: InspectedArea | None,
) -> None:
    """Add the row, the errors and the warnings of a category."""
    counts = Counts(
        len(category.train) + len(category.held_out),
        sum(record.label == 0 for record in category.test),
        sum(record.label == 1 for record in category.test),
    )
    note = ""
    if report.source != "synthetic":
        dataset = None if layout.good is not None else dataset_in(layout, category.name)
        note = _compare_with_published(report, category, counts, dataset)
    unreadable = [error for inspection in inspections for error in inspection.errors]
    report.errors += [*category.errors, *unreadable]
    folder = layout.folders[category.name]
    images = {i.record.path: i.image for i in inspections if i.image}
    masks = {i.record.mask: i.mask for i in inspections if i.record.mask and i.mask}
    report.warnings += [
        *category.warnings,
        *category.missing_mask_warnings(folder),
        *content_warnings(category, images, masks, folder, bits),
        *outside_notes(category, [i.record for i in inspections if i.outside]),
    ]
    complete = not unreadable and not category.errors
    report.rows.append(
        CheckRow(
            category=category.name,
            counts=counts,
            masks=sum(record.mask is not None for record in category.test),
            sizes=_size_range([image.size for image in images.values()]),
            published=note,
            fingerprint=fingerprint(category.records, layout, {category.name: area})
            if complete
            else "",
        )
    )


def _compare_with_published(
    report: CheckReport, category: Category, counts: Counts, dataset: Dataset | None
) -> str:
    """Return `CheckRow.published`; add warnings about different numbers of images."""
    published = published_counts(dataset, category.name)
    if published is None:
        return ""
    name, expected = published
    if counts != expected:
        report.warnings.append(
            f"category {category.name} has {_slashed(counts)} images (train / test normal / "
            f"test anomalous), {name} has {_slashed(expected)}: files are missing, or it is "
            "another dataset."
        )
        return f"{name} has {_slashed(expected)}"
    held_out = dataset.validation.get(category.name, 0) if dataset is not None else 0
    if held_out and len(category.held_out) != held_out:
        report.warnings.append(
            f"category {category.name} has {len(category.held_out)} images in validation/good, "
            f"{name} has {held_out}: files were moved."
        )
    return f"as {name}"


def _compare_totals(report: CheckReport, dataset: Dataset | None) -> None:
    """Warn if the total numbers of images of all categories differ from the published ones."""
    if dataset is None or len(report.rows) != dataset.categories:
        return
    by_split = zip(*(row.counts for row in report.rows), strict=True)
    total = Counts(*(sum(numbers) for numbers in by_split))
    if total not in dataset.totals:
        expected = " or ".join(map(_slashed, dataset.totals))
        report.warnings.append(
            f"the {len(report.rows)} categories have {_slashed(total)} images (train / test normal "
            f"/ test anomalous) in total, {dataset.name} has {expected}: the lists were changed."
        )


def _slashed(counts: Counts) -> str:
    return " / ".join(map(str, counts))


def _size_range(sizes: Sequence[tuple[int, int]]) -> str:
    texts = [f"{width}x{height}" for height, width in sorted(set(sizes))]
    return texts[0] if len(texts) == 1 else " to ".join(texts[:1] + texts[-1:])
