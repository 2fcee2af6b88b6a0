"""Folders of images become categories: the layouts of MVTec AD and VisA, found and read.

Nothing is decoded here. What is wrong with a folder is collected, so that loading can refuse with
all of it at once and `vqlab data check` can list it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.data.images import IMAGE_SUFFIXES
from vqlab.errors import UserError, did_you_mean
from vqlab.types import Sample

FEWEST = 4
"""Images in train/good: two to train on and two held out."""
VISA_SPLIT = Path("split_csv/1cls.csv")
VISA_COLUMNS = ("object", "split", "label", "image", "mask")


@dataclass(frozen=True)
class Layout:
    """A folder of categories: `root` holds them, `folders` says where each lies."""

    root: Path
    source: str
    """`MVTec AD layout` or `VisA layout`."""
    folders: dict[str, Path]
    alone: bool = False
    """True where the user pointed at one category's own folder."""


@dataclass
class Category:
    """What lies in one category: its samples, and what is wrong with it (sentences)."""

    name: str
    train: list[Sample] = field(default_factory=list)
    test: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Each keeps the category from being used."""
    remarks: list[str] = field(default_factory=list)
    """Worth knowing, but no obstacle."""


def recognise(root: Path) -> Layout:
    """The layout of the folder `root`. Raises UserError where it is none that we know."""
    if not root.exists():
        raise UserError(f"data.root must be a folder of images; {root} does not exist.")
    if not root.is_dir():
        raise UserError(f"data.root must be a folder of images; {root} is a file.")
    try:
        inside = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"data.root {root} cannot be read: {error.strerror}.") from None
    if (root / VISA_SPLIT).is_file():
        named = {row["object"] for row in _visa_rows(root)}
        there = {path.name: path for path in inside if path.name in named}
        return Layout(root, "VisA layout", there)
    folder = Path(os.path.abspath(root))
    if (root / "Data/Images").is_dir() and (folder.parent / VISA_SPLIT).is_file():
        return Layout(folder.parent, "VisA layout", {folder.name: folder}, alone=True)
    if (root / "train").is_dir():
        return Layout(folder.parent, _source([folder]), {folder.name: folder}, alone=True)
    if (root / "1cls").is_dir():
        return recognise(root / "1cls")
    folders = {path.name: path for path in inside if _is_category(path)}
    if not folders:
        raise UserError(_nothing_in(root, inside))
    return Layout(root, _source(folders.values()), folders)


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _source(folders: Iterable[Path]) -> str:
    """VisA, reorganised, has one kind of defect, `bad`."""
    kinds = {p.name for folder in folders for p in _subfolders(folder / "test")} - {"good"}
    return "VisA layout" if kinds == {"bad"} else "MVTec AD layout"


def _nothing_in(root: Path, inside: Sequence[Path]) -> str:
    sentence = f"data.root {root} must hold categories, folders with train/good inside"
    raw = [path.name for path in inside if (path / "Data/Images").is_dir()]
    if raw:
        return (
            f"{sentence}; it holds VisA ({listing(raw)}) without its {VISA_SPLIT}, copy it there."
        )
    deeper = [path.name for path in inside if any(_is_category(p) for p in _subfolders(path))]
    if deeper:
        return f"{sentence}; below it {listing(deeper)} would do, give one of them."
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
    if layout.source == "VisA layout" and (layout.root / VISA_SPLIT).is_file():
        _read_visa(layout, category)
        place = f"{layout.root / VISA_SPLIT}"
    else:
        _read_folders(layout.folders[name], category)
        place = f"{layout.folders[name]}"
    count = len(category.train)
    if 0 < count < FEWEST:
        category.faults.append(
            f"category {name} must have at least {FEWEST} normal images to train on and to hold "
            f"out; {place} has {count}."
        )
    if not category.test:
        category.faults.append(
            f"category {name} must have test images (test/good, test/<defect>); {place} has none."
        )
    return category


def _read_folders(folder: Path, category: Category) -> None:
    good = folder / "train/good"
    if not good.is_dir():
        category.faults.append(
            f"category {category.name} must have a folder train/good; {folder} has none."
        )
    category.train = [Sample(path, category.name, "good") for path in _images(good, category)]
    if good.is_dir() and not category.train:
        category.faults.append(f"{good} must hold images ({_suffixes()}); it holds none.")
    others = [path.name for path in _subfolders(folder / "train") if path.name != "good"]
    if others:
        category.remarks.append(f"{folder / 'train'}: {listing(others)} is not train/good, unused.")
    used: set[Path] = set()
    bare: list[Path] = []
    for kind in _subfolders(folder / "test"):
        masks = _masks(folder / "ground_truth" / kind.name)
        for path in _images(kind, category):
            mask = None if kind.name == "good" else _mask_of(path, masks)
            if kind.name != "good" and mask is None:
                bare.append(path)
            used |= {mask} if mask else set()
            category.test.append(Sample(path, category.name, kind.name, mask))
    if bare:
        category.faults.append(_without_mask(category.name, bare, folder))
    every = {path for kind in _subfolders(folder / "ground_truth") for path in _images(kind)}
    _remark_orphans(category, {path for path in every - used if path.parent.name != "good"})


def _mask_of(image: Path, masks: dict[str, Path]) -> Path | None:
    """MVTec AD adds `_mask` to the name, VisA does not."""
    return masks.get(f"{image.stem}_mask") or masks.get(image.stem)


def _masks(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _images(folder)}


def _without_mask(name: str, bare: Sequence[Path], root: Path) -> str:
    which = listing([str(path.relative_to(root)) for path in bare])
    return (
        f"category {name}: every defect must have a mask in ground_truth/<defect>/<name>_mask.png; "
        f"{len(bare)} of them {'has' if len(bare) == 1 else 'have'} none ({which})."
    )


def _remark_orphans(category: Category, orphans: set[Path]) -> None:
    if orphans:
        which = listing([f"{path.parent.name}/{path.name}" for path in sorted(orphans)])
        category.remarks.append(
            f"category {category.name}: {len(orphans)} masks belong to no image ({which})."
        )


def _visa_rows(root: Path) -> list[dict[str, str]]:
    """The rows of split_csv/1cls.csv. Raises UserError where it is not such a table."""
    path = root / VISA_SPLIT
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"VisA's split {path} cannot be read: {error}.") from None
    for number, row in enumerate(rows, start=2):
        right = (
            all(isinstance(row.get(column), str) for column in VISA_COLUMNS)
            and row["split"] in ("train", "test")
            and row["label"] in ("normal", "anomaly")
        )
        if not right:
            raise UserError(
                f"VisA's split {path} must have the columns {', '.join(VISA_COLUMNS)} (train or "
                f"test, normal or anomaly); line {number} is {list(row.values())}."
            )
    if not rows:
        raise UserError(f"VisA's split {path} must list images; it has no row.")
    return rows


def _read_visa(layout: Layout, category: Category) -> None:
    bare: list[Path] = []
    named: set[Path] = set()
    for row in _visa_rows(layout.root):
        if row["object"] != category.name:
            continue
        path = layout.root / row["image"]
        normal = row["label"] == "normal"
        mask = None if normal or not row["mask"] else layout.root / row["mask"]
        named |= {path} | ({mask} if mask else set())
        if not normal and (mask is None or not mask.is_file()):
            bare.append(path)
        if row["split"] == "test":
            defect = "good" if normal else "bad"
            category.test.append(Sample(path, category.name, defect, mask))
        elif normal:
            category.train.append(Sample(path, category.name, "good"))
    category.train.sort(key=lambda sample: sample.path)
    category.test.sort(key=lambda sample: (sample.defect, sample.path))
    if not category.train:
        category.faults.append(
            f"category {category.name} must have normal images to train on; "
            f"{layout.root / VISA_SPLIT} lists none."
        )
    if bare:
        category.faults.append(_without_mask(category.name, bare, layout.root))
    data = layout.folders[category.name] / "Data"
    _remark_orphans(category, set(_images(data / "Masks/Anomaly")) - named)
    extra = {p for kind in ("Normal", "Anomaly") for p in _images(data / "Images" / kind)} - named
    if extra:
        which = listing([path.name for path in sorted(extra)])
        category.remarks.append(f"category {category.name}: not in the split, unused: {which}.")


def _images(folder: Path, category: Category | None = None) -> list[Path]:
    """The image files of a folder by name; others are skipped and remarked on."""
    files = _visible(folder, files=True)
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if category is not None and len(images) < len(files):
        strangers = listing([path.name for path in files if path not in set(images)])
        category.remarks.append(f"{folder}: {strangers} is not an image by its name, unused.")
    return images


def _subfolders(folder: Path) -> list[Path]:
    return _visible(folder, files=False)


def _visible(folder: Path, files: bool) -> list[Path]:
    """Entries whose names do not begin with a dot (`.DS_Store`, `._000.png`), sorted."""
    if not folder.is_dir():
        return []
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(path for path in entries if (path.is_file() if files else path.is_dir()))


def _suffixes() -> str:
    return ", ".join(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))


def listing(names: Sequence[str], most: int = 10) -> str:
    """`a, b, c`, or the first ten `and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
