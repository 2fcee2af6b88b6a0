"""What all published datasets have in common: categories on disk, image counts, records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from vqlab.data.category import Category


class Counts(NamedTuple):
    """Numbers of images of a category: train with validation, test normal, test anomalous."""

    train: int
    good: int
    defect: int


@dataclass(frozen=True)
class Layout:
    """A folder of categories: `root` contains them, `folders` maps names to their folders."""

    root: Path
    source: str
    """`<dataset> layout`, `several layouts`, `folders of good and bad images` or `folder of good
    images`."""
    folders: dict[str, Path]
    single: bool = False
    """True if the user named the folder of one category."""
    good: Path | None = None
    """`data.good`; then `root` is the same folder."""
    bad: Path | None = None
    """`data.bad`."""
    dataset: Dataset | None = None
    """Dataset of all categories if a list of files defines them; None: see `dataset_of`."""
    lists: Path | None = None
    """Folder of the JSON files that list the images (Real-IAD)."""

    def relative_path(self, path: Path) -> str:
        """Return an image's path relative to the dataset, which does not depend on its location."""
        if self.good is None:
            return path.relative_to(self.root).as_posix()
        roots = {"good": self.good, **({"bad": self.bad} if self.bad else {})}
        parents = [name for name, folder in roots.items() if path.is_relative_to(folder)]
        name = max(parents, key=lambda name: len(roots[name].parts))
        return f"{name}/{path.relative_to(roots[name]).as_posix()}"


class Dataset(ABC):
    """A published dataset: recognises its folders and lists the records of a category.

    A subclass implements `add_records`, and either `is_category` (one folder per category) or
    `detect` (a list of files for the whole dataset).
    """

    name: ClassVar[str]
    counts: ClassVar[Mapping[str, Counts]]
    """Published numbers of images by category; empty if they are not published by category."""
    validation: ClassVar[Mapping[str, int]] = {}
    """Published numbers of images in validation/good, included in `counts`."""
    categories: ClassVar[int] = 0
    """Number of categories that `totals` count."""
    totals: ClassVar[tuple[Counts, ...]] = ()
    """Published numbers of images of the whole dataset, one for each list of splits."""

    @property
    def source(self) -> str:
        """Source of data in this layout, see `Layout.source`."""
        return f"{self.name} layout"

    def is_category(self, folder: Path) -> bool:
        """Return whether a folder is that of a category of this dataset."""
        return False

    def detect(self, root: Path) -> Layout | None:
        """Return the layout of a folder in which a list of files defines the categories, or None.
        Raises UserError if the list is invalid."""
        return None

    @abstractmethod
    def add_records(self, layout: Layout, folder: Path, category: Category) -> None:
        """Add the records of the category in `folder`, with errors and warnings."""

    def published(self, category: str) -> Counts | None:
        """Return the published numbers of images of a category."""
        return self.counts.get(category)

    def place(self, layout: Layout, folder: Path) -> Path:
        """Return the path to name in messages about a category: its folder, or its list of
        images."""
        return folder

    def is_unused(self, folder: Path, path: Path) -> bool:
        """Return whether images directly in `path`, below the category's `folder`, are unused on
        purpose, or covered by another warning."""
        return False
