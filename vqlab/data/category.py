"""One category of a data set: its samples, and what is wrong with it or worth knowing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.data.folder_names import entries
from vqlab.data.images import IMAGE_SUFFIXES
from vqlab.text import visible
from vqlab.types import Sample

FEWEST = 4
"""Images in train/good: two to train on and two held out."""


@dataclass
class Category:
    """What lies in one category: its samples, and what is wrong with it (sentences)."""

    name: str
    train: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Each keeps the category from being used."""
    remarks: list[str] = field(default_factory=list)
    """Worth knowing, but no obstacle; training says them too."""

    def without_mask(self, root: Path) -> list[str]:
        """Return a sentence that names the defects without a mask by their path below `root`;
        empty where every defect has one."""
        bare = [sample.path for sample in self.test if sample.label and sample.mask is None]
        if not bare:
            return []
        defects = sum(sample.label for sample in self.test)
        expected = "expected at ground_truth/<defect>/<name>_mask.png"
        if len(bare) == defects:
            return [
                f"category {self.name}: no defect image has a mask ({expected}); there will be no "
                "pixel metrics."
            ]
        which = listing([relative(path, root) for path in bare])
        have = "has" if len(bare) == 1 else "have"
        return [
            f"category {self.name}: {len(bare)} of {defects} defect images {have} no mask, "
            f"{expected}; pixel metrics leave them out ({which})."
        ]


def relative(path: Path, root: Path) -> str:
    """Return the path below `root`, or the whole path if it lies elsewhere."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def files_below(paths: Sequence[Path], folder: Path, most: int = 5) -> str:
    """Return the first few paths below `folder` as text, and how many more there are."""
    return listing([visible(relative(path, folder)) for path in paths], most)


def images_in(folder: Path, category: Category | None = None) -> list[Path]:
    """The image files of a folder by name; others are skipped and remarked on."""
    files = entries(folder, files=True)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if category is not None and len(images) < len(files):
        strangers = listing([path.name for path in files if path not in set(images)])
        category.remarks.append(f"{folder}: {strangers} is not an image by its name, unused.")
    return images


def remark_orphans(category: Category, orphans: set[Path]) -> None:
    """Remark on masks that belong to no image."""
    if orphans:
        which = listing([f"{path.parent.name}/{path.name}" for path in sorted(orphans)])
        category.remarks.append(
            f"category {category.name}: {len(orphans)} masks belong to no image ({which})."
        )


def suffixes() -> str:
    """Return the endings of image files as text."""
    return ", ".join(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))


def listing(names: Sequence[str], most: int = 10) -> str:
    """`a, b, c`, or the first ten `and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
