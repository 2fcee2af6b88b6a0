"""`vqlab data check`: is a data set whole, readable and fair? Everything found, not the first."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vqlab.data.category import Category
from vqlab.data.facts import MaskFacts, PictureFacts, examine, examine_mask
from vqlab.data.image_set import THREADS, Progress
from vqlab.data.images import BadFile
from vqlab.data.layouts import Layout, read_category, recognise, require_categories
from vqlab.data.meaning import meaning_warnings
from vqlab.data.published import Counts, published_counts
from vqlab.data.source import source_of
from vqlab.data.splits import fingerprint
from vqlab.types import Sample


@dataclass(frozen=True)
class CheckRow:
    """One category: what is there, and what the published set of that name has."""

    category: str
    counts: Counts
    masks: int
    sizes: str
    """`256x256`, or `640x480 to 1024x1024` (width x height)."""
    published: str
    """`as MVTec AD`, `MVTec AD has 224 / 58 / 92`, or nothing."""
    fingerprint: str
    """Of this category alone; empty where a file cannot be read."""


@dataclass
class CheckReport:
    """What `check_dataset` found: `errors` keep the set from being used, `warnings` do not."""

    root: Path
    source: str
    rows: list[CheckRow] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    fingerprint: str = ""
    """Of all the checked categories together; empty where a file cannot be read."""

    @property
    def ok(self) -> bool:
        """True where nothing keeps the set from being used."""
        return not self.errors


@dataclass(frozen=True)
class _Seen:
    """What decoding a sample showed, and its faults; nothing where a file cannot be read."""

    picture: PictureFacts | None
    mask: MaskFacts | None
    errors: tuple[str, ...] = ()


def check_dataset(
    root: Path | Layout,
    categories: Sequence[str] | None = None,
    progress: Progress | None = None,
    bits: int | None = None,
) -> CheckReport:
    """Decode every image and mask below `root`, or of a layout, and say all that is wrong.

    Counts against the published ones, masks against their images and what they mark, bit depth,
    images that are not used, the same picture twice, unreadable files. bits: as `data.bits`. Raises
    UserError only where `root` holds no data set at all, or not the
    `categories` asked for.
    """
    layout = root if isinstance(root, Layout) else recognise(root)
    names = sorted(layout.folders) if categories is None else list(categories)
    require_categories(layout, names)
    if isinstance(root, Layout):
        report = CheckReport(layout.root, layout.source)
    else:
        report = CheckReport(root, source_of(root))
    found = [read_category(layout, name) for name in names]
    total = sum(len(category.train) + len(category.test) for category in found)
    done = 0
    samples: list[Sample] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for category in found:
            mine = [*category.train, *category.test]
            seen: list[_Seen] = []
            for one in pool.map(partial(_look, bits=bits), mine):
                seen.append(one)
                done += 1
                if progress is not None:
                    progress(done, total)
            _report(report, category, mine, seen, layout, bits)
            samples += mine
    if all(row.fingerprint for row in report.rows):
        report.fingerprint = fingerprint(samples, layout)
    return report


def _look(sample: Sample, bits: int | None) -> _Seen:
    """Decode a sample and its mask; nothing is raised."""
    errors: list[str] = []
    picture, facts = None, None
    try:
        _, picture = examine(sample.path, bits)
    except BadFile as error:
        errors.append(f"{error.path}: {error.reason}.")
    try:
        if sample.mask is not None:
            mask, facts = examine_mask(sample.mask)
            if picture is not None and mask.shape != picture.size:
                errors.append(
                    f"{sample.mask}: the mask is {mask.shape[1]}x{mask.shape[0]} pixels, "
                    f"its image {picture.size[1]}x{picture.size[0]}."
                )
    except BadFile as error:
        errors.append(f"{error.path}: {error.reason}.")
    return _Seen(picture, facts, tuple(errors))


def _report(
    report: CheckReport,
    category: Category,
    samples: Sequence[Sample],
    seen: Sequence[_Seen],
    layout: Layout,
    bits: int | None,
) -> None:
    counts = Counts(
        len(category.train),
        sum(sample.label == 0 for sample in category.test),
        sum(sample.label == 1 for sample in category.test),
    )
    published = published_counts(category.name) if report.source != "synthetic" else None
    note = ""
    if published is not None:
        name, official = published
        note = f"as {name}" if counts == official else f"{name} has {_slashed(official)}"
        if counts != official:
            report.warnings.append(
                f"category {category.name} has {_slashed(counts)} images (train / good / defect), "
                f"{name} has {_slashed(official)}: a part is missing, or it is another set."
            )
    unreadable = [error for one in seen for error in one.errors]
    report.errors += [*category.faults, *unreadable]
    report.warnings += [*category.remarks, *category.without_mask(layout.folders[category.name])]
    pictures = {s.path: one.picture for s, one in zip(samples, seen, strict=True) if one.picture}
    masks = {s.mask: o.mask for s, o in zip(samples, seen, strict=True) if s.mask and o.mask}
    folder = layout.folders[category.name]
    report.warnings += meaning_warnings(category, pictures, masks, folder, bits)
    masked = [sample for sample in category.test if sample.mask is not None]
    whole = not unreadable and not category.faults
    report.rows.append(
        CheckRow(
            category=category.name,
            counts=counts,
            masks=len(masked),
            sizes=_sizes([facts.size for facts in pictures.values()]),
            published=note,
            fingerprint=fingerprint(samples, layout) if whole else "",
        )
    )


def _slashed(counts: Counts) -> str:
    return " / ".join(map(str, counts))


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    if not sizes:
        return ""
    least, most = min(sizes), max(sizes)
    texts = [f"{width}x{height}" for height, width in (least, most)]
    return texts[0] if least == most else " to ".join(texts)
