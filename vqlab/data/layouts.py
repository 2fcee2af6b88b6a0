"""Detect the layout of a dataset folder and list the records of its categories.

`vqlab.data.datasets` has a file for each published dataset. No image is decoded here, except masks
of datasets in which only the masks tell which images are normal. Problems are collected, so that
loading can report all of them at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vqlab.data.category import MIN_HELD_OUT_IMAGES, MIN_NORMAL_IMAGES, Category, list_images
from vqlab.data.category_folders import good_bad_folders, is_good_and_bad, list_samples
from vqlab.data.checks.unused import unused_image_warnings
from vqlab.data.datasets import (
    DATASETS,
    MVTEC_AD,
    VISA,
    VISA_SPLIT,
    Dataset,
    Layout,
    dataset_of,
    require_labels,
)
from vqlab.data.folder_names import GOOD, TEST, TRAIN, named, normalize, subfolders
from vqlab.errors import UserError, did_you_mean
from vqlab.text import join_names

GOOD_AND_BAD = "folders of good and bad images"
"""Source of data without train and test folders."""
GOOD_ALONE = "folder of good images"
"""Source of such data without anomalous images."""
SEVERAL = "several layouts"
"""Source of a folder with categories of several datasets."""


def good_bad_layout(good: Path, bad: Path | None, category: str) -> Layout:
    """Return the layout of `data.good` and `data.bad` as one category."""
    for setting, path in (("data.good", good), ("data.bad", bad)):
        if path is not None:
            require_labels(path, setting)
    source = GOOD_ALONE if bad is None else GOOD_AND_BAD
    return Layout(good, source, {category: good}, single=True, good=good, bad=bad)


def detect_layout(root: Path) -> Layout:
    """Return the layout of the folder `root`. Raises UserError if it is no dataset."""
    if not root.exists():
        raise UserError(
            f"data.root must be a folder of images; {root} does not exist; pass its location with "
            "--data."
        )
    if not root.is_dir():
        raise UserError(f"data.root must be a folder of images; {root} is a file.")
    try:
        inside = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise UserError(f"data.root {root} cannot be read: {error.strerror}.") from None
    require_labels(root, "data.root")
    for dataset in DATASETS:
        layout = dataset.detect(root)
        if layout is not None:
            return layout
    folder = Path(os.path.abspath(root))
    alone = dataset_of(folder)
    if alone is not None and not _only_test(folder, alone):
        source = _source({folder: alone})
        return Layout(folder.parent, source, {folder.name: folder}, single=True)
    if (root / "1cls").is_dir():
        return detect_layout(root / "1cls")
    datasets = {path: dataset_of(path) for path in inside}
    categories = {path: each for path, each in datasets.items() if each is not None}
    if not categories:
        raise UserError(_no_category(root, inside))
    return Layout(root, _source(categories), {path.name: path for path in categories})


def _only_test(folder: Path, dataset: Dataset) -> bool:
    """Return whether a folder has only a test folder; as `data.root` it is not a category."""
    return dataset is MVTEC_AD and not (named(folder, TRAIN) or is_good_and_bad(folder))


def _source(categories: Mapping[Path, Dataset]) -> str:
    """Return the source; VisA in MVTec AD's layout has a single defect type, `bad`."""
    datasets = set(categories.values())
    if len(datasets) > 1:
        return SEVERAL
    dataset = datasets.pop()
    if dataset is not MVTEC_AD:
        return dataset.source
    if all(is_good_and_bad(folder) for folder in categories):
        return GOOD_AND_BAD
    tests = [test for folder in categories for test in named(folder, TEST)]
    names = {path.name for test in tests for path in subfolders(test)}
    defects = {name for name in names if normalize(name) not in GOOD}
    return VISA.source if defects == {"bad"} else dataset.source


def _no_category(root: Path, inside: Sequence[Path]) -> str:
    sentence = f"data.root {root} must contain categories (folders with train/good)"
    raw_visa = [path.name for path in inside if (path / "Data/Images").is_dir()]
    if raw_visa:
        return (
            f"{sentence}; it contains VisA ({join_names(raw_visa)}) without {VISA_SPLIT}; copy "
            "that file into it."
        )
    deeper = [path.name for path in inside if any(dataset_of(p) for p in subfolders(path))]
    if deeper:
        return f"{sentence}; use one of its subfolders: {join_names(deeper)}."
    if list_images(root):
        return (
            f"{sentence}; it contains images itself; pass a folder of normal images with --good "
            f"{root}."
        )
    flat = [path for path in inside if list_images(path)]
    if flat:
        return (
            f"{sentence}; it contains folders of images ({join_names([p.name for p in flat])}); "
            f"pass the one with normal images with --good, e.g. --good {flat[0]}, and the one with "
            "anomalous images with --bad."
        )
    got = join_names([path.name for path in inside]) if inside else "no folder"
    return f"{sentence}; it contains {got}."


def require_categories(layout: Layout, names: Sequence[str]) -> None:
    """Raise UserError unless the layout has all these categories."""
    missing = [name for name in names if name not in layout.folders]
    if missing:
        hint = suggestion(missing, layout.folders)
        hint = hint or f"it has {join_names(sorted(layout.folders), limit=30)}."
        raise UserError(f"there is no category {join_names(missing)} in {layout.root}; {hint}")


def suggestion(missing: Sequence[str], available: Iterable[str]) -> str:
    """Return `did you mean cable?` if a single category is missing and a name is close."""
    return did_you_mean(missing[0], available) if len(missing) == 1 else ""


def read_category(layout: Layout, name: str) -> Category:
    """List the records of a category, sorted, with errors and warnings; `name` is a key of
    `layout.folders`."""
    category = Category(name)
    folder = layout.folders[name]
    place = folder
    if layout.good is not None:
        list_samples(good_bad_folders(layout.good, layout.bad, category), category)
    else:
        dataset = dataset_in(layout, name)
        dataset.add_records(layout, folder, category)
        place = dataset.place(layout, folder)
    category.warnings += _unused_warnings(layout, name, category)
    if name == "all":  # reserved by `data.categories` and `--category`
        remedy = "name it with --category" if layout.good is not None else "rename the folder"
        category.errors.append(
            f"category {folder} must not be called all, which means all categories; {remedy}."
        )
    if 0 < len(category.train) < MIN_NORMAL_IMAGES:
        category.errors.append(
            f"category {name} must have at least {MIN_NORMAL_IMAGES} normal images for training "
            f"and holding out; {place} has {len(category.train)}."
        )
    if 0 < len(category.held_out) < MIN_HELD_OUT_IMAGES:
        category.errors.append(
            f"category {name} must have at least {MIN_HELD_OUT_IMAGES} images in validation/good; "
            f"{place} has {len(category.held_out)}; add some, or remove the folder."
        )
    if not category.test and not category.errors:
        category.warnings.append(
            f"category {name} has no test images in {place}: it is evaluated on validation only, "
            "with synthetic anomalies."
        )
    return category


def dataset_in(layout: Layout, name: str) -> Dataset:
    """Return the dataset that reads a category of a layout without `data.good`."""
    return layout.dataset or dataset_of(layout.folders[name]) or MVTEC_AD


def _unused_warnings(layout: Layout, name: str, category: Category) -> list[str]:
    """Return warnings on unused images, except in folders that another warning covers."""
    folder = layout.folders[name]
    if layout.good is not None:
        roots = dict.fromkeys(p for p in (layout.good, layout.bad) if p is not None and p.is_dir())
        outer = [p for p in roots if not any(p != o and p.is_relative_to(o) for o in roots)]
        return [warning for p in outer for warning in unused_image_warnings(p, category)]
    dataset = dataset_in(layout, name)
    return unused_image_warnings(folder, category, lambda path: dataset.is_unused(folder, path))
