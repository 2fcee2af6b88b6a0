"""Folders of images become categories: layouts of MVTec AD and VisA, or folders of good and bad.

Nothing is decoded here. What is wrong with a folder is collected, so that loading can refuse with
all of it at once and `vqlab data check` can list it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqlab.data.category import FEWEST, Category, images_in
from vqlab.data.category import listing as listing
from vqlab.data.folder_names import BAD, GOOD, TEST, TRAIN, meaning, named, subfolders
from vqlab.data.good_bad import is_category, is_good_and_bad, places_in, places_of, read_places
from vqlab.data.unused import unused_images
from vqlab.data.visa import VISA_SPLIT, read_visa, visa_rows
from vqlab.errors import UserError, did_you_mean

GOOD_AND_BAD = "folders of good and bad images"
"""Source of data that are in no train and test folders."""
GOOD_ALONE = "folder of good images"
"""Source of such data without bad images."""


@dataclass(frozen=True)
class Layout:
    """A folder of categories: `root` holds them, `folders` says where each lies."""

    root: Path
    source: str
    """`MVTec AD layout`, `VisA layout`, `folders of good and bad images` or `folder of good
    images`."""
    folders: dict[str, Path]
    alone: bool = False
    """True where the user pointed at one category's own folder."""
    good: Path | None = None
    """Folder of good images that the user pointed at; then `root` is it, too."""
    bad: Path | None = None
    """Folder of bad images beside it."""

    def place(self, path: Path) -> str:
        """Return where an image lies, the same wherever the data set lies."""
        if self.good is None:
            return path.relative_to(self.root).as_posix()
        named = {"good": self.good, **({"bad": self.bad} if self.bad else {})}
        around = [name for name, folder in named.items() if path.is_relative_to(folder)]
        name = max(around, key=lambda name: len(named[name].parts))
        return f"{name}/{path.relative_to(named[name]).as_posix()}"


def good_and_bad(good: Path, bad: Path | None, category: str) -> Layout:
    """The layout of a folder of good images and perhaps one of bad images, as one category."""
    source = GOOD_ALONE if bad is None else GOOD_AND_BAD
    return Layout(good, source, {category: good}, alone=True, good=good, bad=bad)


def recognise(root: Path) -> Layout:
    """The layout of the folder `root`. Raises UserError where it is none that we know."""
    if not root.exists():
        raise UserError(
            f"data.root must be a folder of images; {root} does not exist; if it was moved, say "
            "where it is now with --data."
        )
    if not root.is_dir():
        raise UserError(f"data.root must be a folder of images; {root} is a file.")
    try:
        inside = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"data.root {root} cannot be read: {error.strerror}.") from None
    if (root / VISA_SPLIT).is_file():
        objects = {row["object"] for row in visa_rows(root)}
        there = {path.name: path for path in inside if path.name in objects}
        return Layout(root, "VisA layout", there)
    folder = Path(os.path.abspath(root))
    if (root / "Data/Images").is_dir() and (folder.parent / VISA_SPLIT).is_file():
        return Layout(folder.parent, "VisA layout", {folder.name: folder}, alone=True)
    if named(root, TRAIN) or is_good_and_bad(root):
        return Layout(folder.parent, _source([folder]), {folder.name: folder}, alone=True)
    if (root / "1cls").is_dir():
        return recognise(root / "1cls")
    folders = {path.name: path for path in inside if is_category(path)}
    if not folders:
        raise UserError(_nothing_in(root, inside))
    return Layout(root, _source(folders.values()), folders)


def _source(folders: Iterable[Path]) -> str:
    """VisA, reorganised, has one kind of defect, `bad`."""
    folders = list(folders)
    if all(is_good_and_bad(folder) for folder in folders):
        return GOOD_AND_BAD
    tests = [test for folder in folders for test in named(folder, TEST)]
    kinds = {path.name for test in tests for path in subfolders(test)}
    kinds = {name for name in kinds if meaning(name) not in GOOD}
    return "VisA layout" if kinds == {"bad"} else "MVTec AD layout"


def _nothing_in(root: Path, inside: Sequence[Path]) -> str:
    sentence = f"data.root {root} must hold categories, folders with train/good inside"
    raw = [path.name for path in inside if (path / "Data/Images").is_dir()]
    if raw:
        return (
            f"{sentence}; it holds VisA ({listing(raw)}) without its {VISA_SPLIT}, copy it there."
        )
    deeper = [path.name for path in inside if any(is_category(p) for p in subfolders(path))]
    if deeper:
        return f"{sentence}; below it {listing(deeper)} would do, give one of them."
    if images_in(root):
        return (
            f"{sentence}; it holds images itself; give a folder of good images with --good {root}."
        )
    flat = [path for path in inside if images_in(path)]
    if flat:
        names = listing([path.name for path in flat])
        return (
            f"{sentence}; it holds folders of images ({names}); give the one of good images with "
            f"--good, e.g. --good {flat[0]}, and one of defective images with --bad."
        )
    got = listing([path.name for path in inside]) if inside else "no folder"
    return f"{sentence}; it holds {got}."


def require_categories(layout: Layout, names: Sequence[str]) -> None:
    """Raise UserError unless the layout has all the categories of these names."""
    missing = [name for name in names if name not in layout.folders]
    if missing:
        hint = did_you_mean(missing[0], layout.folders) if len(missing) == 1 else ""
        raise UserError(
            f"there is no category {listing(missing)} in {layout.root}; "
            f"{hint or f'it has {listing(sorted(layout.folders), most=30)}.'}"
        )


def read_category(layout: Layout, name: str) -> Category:
    """The samples of a category, sorted, and its faults; `name` is a key of `layout.folders`."""
    category = Category(name)
    place = f"{layout.folders[name]}"
    if layout.good is not None:
        read_places(places_of(layout.good, layout.bad, category), category)
    elif layout.source == "VisA layout" and (layout.root / VISA_SPLIT).is_file():
        read_visa(layout.root, layout.folders[name], category)
        place = f"{layout.root / VISA_SPLIT}"
    else:
        read_places(places_in(layout.folders[name], category), category)
    category.remarks += _unused(layout, name, category)
    count = len(category.train)
    if 0 < count < FEWEST:
        category.faults.append(
            f"category {name} must have at least {FEWEST} normal images to train on and to hold "
            f"out; {place} has {count}."
        )
    if not category.test and not category.faults:
        category.remarks.append(
            f"category {name} has no test images in {place}: it is measured on validation alone, "
            "on synthetic anomalies."
        )
    return category


def _unused(layout: Layout, name: str, category: Category) -> list[str]:
    """Sentences on the images that a category does not use, except where one is said already."""
    folder = layout.folders[name]
    if layout.good is not None:
        there = dict.fromkeys(f for f in (layout.good, layout.bad) if f is not None and f.is_dir())
        inside = [f for f in there if any(f != o and f.is_relative_to(o) for o in there)]
        return [s for f in there if f not in inside for s in unused_images(f, category)]
    said = set(named(folder, TEST))
    if (layout.root / VISA_SPLIT).is_file():
        said |= {folder / "Data/Images/Normal", folder / "Data/Images/Anomaly"}
    elif is_good_and_bad(folder):
        said |= set(subfolders(folder)) - set(named(folder, GOOD | BAD))
    return unused_images(folder, category, said.__contains__)
