"""One category of a dataset: its records, and the problems found while listing its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.data.folder_names import entries
from vqlab.data.images import IMAGE_SUFFIXES
from vqlab.text import join_names, visible
from vqlab.types import ImageRecord

MIN_NORMAL_IMAGES = 4
"""Images in train/good: two for training and two held out."""
MIN_HELD_OUT_IMAGES = 2
"""Images in validation/good, if there are any."""


@dataclass
class Category:
    """Samples of one category. Errors and warnings are sentences."""

    name: str
    train: list[ImageRecord] = field(default_factory=list)
    held_out: list[ImageRecord] = field(default_factory=list)
    """Normal images of a folder validation/good; empty: a part of `train` is held out."""
    test: list[ImageRecord] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Problems that prevent loading."""
    warnings: list[str] = field(default_factory=list)
    """Problems that do not prevent loading; training prints them."""
    mask_place: str = "ground_truth/<defect>/<name>_mask.png"
    """Where the mask of an anomalous image is expected."""

    @property
    def records(self) -> list[ImageRecord]:
        """All records: train, held out, test."""
        return [*self.train, *self.held_out, *self.test]

    def missing_mask_warnings(self, root: Path) -> list[str]:
        """Return a sentence that lists the anomalous images without a mask, relative to `root`."""
        anomalous = [record for record in self.test if record.label]
        missing = [record.path for record in anomalous if record.mask is None]
        if not missing:
            return []
        expected = f"expected at {self.mask_place}"
        if len(missing) == len(anomalous):
            return [
                f"category {self.name}: no anomalous image has a mask ({expected}), so there are "
                "no pixel metrics."
            ]
        have = "has" if len(missing) == 1 else "have"
        return [
            f"category {self.name}: {len(missing)} of {len(anomalous)} anomalous images {have} no "
            f"mask, {expected}; pixel metrics exclude them ({join_paths(missing, root, 10)})."
        ]


def relative(path: Path, root: Path) -> str:
    """Return the path relative to `root`, or the full path if it is elsewhere."""
    return visible(path.relative_to(root) if path.is_relative_to(root) else path)


def join_paths(paths: Sequence[Path], folder: Path, limit: int = 5) -> str:
    """Return the first `limit` paths relative to `folder`, and the number of the others."""
    return join_names([relative(path, folder) for path in paths], limit)


def list_images(folder: Path, category: Category | None = None) -> list[Path]:
    """Return the image files of a folder, sorted by name.

    Other files are skipped, with a warning on `category` if it is given.
    """
    files = entries(folder, files=True)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if category is not None and len(images) < len(files):
        skipped = [path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
        category.warnings.append(
            f"{folder}: skipped {join_names(skipped)}: no image file extension."
        )
    return images


def warn_unmatched_masks(category: Category, masks: set[Path]) -> None:
    """Warn of masks that belong to no image."""
    if masks:
        names = join_names([f"{path.parent.name}/{path.name}" for path in sorted(masks)])
        category.warnings.append(f"category {category.name}: masks without an image: {names}.")
