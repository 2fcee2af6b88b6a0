"""Find the folders of one category and list its records.

MVTec AD's layout is `train/good`, `test/good`, `test/<defect>`, `ground_truth/<defect>`; that of
MVTec AD 2 also has `validation/good`, whose images are held out. Without
train and test folders, a folder of normal images and one of anomalous images (`OK` and `NG`) are
enough; a fifth of the normal images then becomes test data.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.data.category import MIN_NORMAL_IMAGES, Category, list_images, warn_unmatched_masks
from vqlab.data.folder_names import (
    BAD,
    GOOD,
    MASKS,
    TEST,
    TRAIN,
    VALIDATION,
    ambiguous_names,
    is_bad,
    is_good,
    named,
    normalize,
    subfolders,
)
from vqlab.data.images import IMAGE_SUFFIXES
from vqlab.text import join_names
from vqlab.types import ImageRecord

TEST_DIVISOR = 5
"""One in 5 normal images becomes a test image if no folder says which ones do."""


@dataclass(frozen=True)
class CategoryFolders:
    """The folders of one category."""

    good: Path | None
    """Normal images for training."""
    held_out: Path | None = None
    """Normal images that are held out."""
    defects: dict[str, Path] = field(default_factory=dict)
    """Test images by defect type; those of `good` are normal."""
    masks: Path | None = None
    """Contains one folder of masks per defect type, or all masks directly."""
    split_good: bool = False
    """A part of `good` becomes the normal test images."""


def is_category(folder: Path) -> bool:
    """Return whether a folder has the subfolders of a category."""
    return bool(named(folder, TRAIN | TEST)) or is_good_and_bad(folder)


def is_good_and_bad(folder: Path) -> bool:
    """Return whether a folder has a subfolder of normal images, and neither train nor test."""
    if named(folder, TRAIN | TEST):
        return False
    return any(list_images(path) for path in named(folder, GOOD))


def find_folders(folder: Path, category: Category) -> CategoryFolders:
    """Return the folders of a category; errors and warnings are added to `category`."""
    train = _single(folder, TRAIN, category)
    test = _single(folder, TEST, category)
    masks = _single(folder, MASKS, category)
    if masks is None and test is not None:  # MVTec AD 2
        masks = _single(test, MASKS, category)
    good = _good_folder(train or folder, train is not None, category)
    validation = None if train is None else _single(folder, VALIDATION, category)
    held_out = next(iter(named(validation, GOOD)), None) if validation else None
    if test is not None:
        return CategoryFolders(good, held_out, _test_folders(test, category), masks)
    bad = named(folder, BAD)
    defects = {name: path for each in bad for name, path in _bad_folders(each, category).items()}
    if train is None:
        used = [good, *bad, masks]
        rest = [path.name for path in subfolders(folder) if path not in used and not is_good(path)]
        if rest:
            category.warnings.append(
                f"{folder}: skipped {join_names(rest)}: the name does not tell whether its images "
                f"are normal or anomalous; rename a defect type to NG/{rest[0]} or bad/{rest[0]}."
            )
    split_good = bool(defects) and train is None
    return CategoryFolders(good, held_out, defects, masks, split_good)


def good_bad_folders(good: Path, bad: Path | None, category: Category) -> CategoryFolders:
    """Return the folders for `data.good` and `data.bad`; errors are added to `category`.

    The defect type of images in `bad` is the folder's name; of those in a subfolder, its name.
    """
    if not good.is_dir():
        category.errors.append(
            f"data.good must be a folder of normal images; {good} is not a folder."
        )
    elif is_category(good) and not list_images(good):
        category.errors.append(
            f"data.good must be a folder of normal images; {good} has such subfolders; use "
            f"--data {good} or --good {_inner_good(good)}."
        )
        return CategoryFolders(None)
    if bad is None:
        return CategoryFolders(good)
    if not bad.is_dir():
        category.errors.append(
            f"data.bad must be a folder of anomalous images; {bad} is not a folder."
        )
        return CategoryFolders(good)
    if bad.resolve() == good.resolve():
        category.errors.append(f"data.good and data.bad must be two folders; got {good} for both.")
        return CategoryFolders(good)
    defects = _bad_folders(bad, category, exclude=good)
    if not defects and not category.errors:
        category.errors.append(_no_images(bad))
    masks = _single(bad, MASKS, category) or _single(bad.parent, MASKS, category)
    return CategoryFolders(good, None, defects, masks, split_good=True)


def list_samples(folders: CategoryFolders, category: Category) -> None:
    """Add the records to `category`, with errors and warnings."""
    name, good = category.name, folders.good
    if good is not None:
        category.train = [ImageRecord(path, name, "good") for path in list_images(good, category)]
        if good.is_dir() and not category.train:
            category.errors.append(_no_images(good))
    if folders.held_out is not None:
        paths = list_images(folders.held_out, category)
        category.held_out = [ImageRecord(path, name, "good") for path in paths]
    if folders.split_good:
        _split_good(category, folders)
    used: set[Path] = set()
    for defect, folder in folders.defects.items():
        masks = {} if defect == "good" else _masks_by_stem(folder, folders.masks)
        for path in list_images(folder, category):
            mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
            used |= {mask} if mask else set()
            category.test.append(ImageRecord(path, name, defect, mask))
    category.test.sort(key=lambda record: (record.defect, record.path))
    if folders.masks is not None:
        masks_found = [*list_images(folders.masks), *_images_below(subfolders(folders.masks))]
        unmatched = {path for path in masks_found if not is_good(path.parent)} - used
        warn_unmatched_masks(category, unmatched)


def _no_images(folder: Path) -> str:
    formats = ", ".join(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))
    return f"{folder} must contain images ({formats}); it contains none."


def _inner_good(folder: Path) -> Path:
    """Return the folder of normal images inside a category's folder, if it is unambiguous."""
    place = next(iter(named(folder, TRAIN)), folder)
    return next(iter(named(place, GOOD)), place)


def _single(folder: Path, names: Iterable[str], category: Category) -> Path | None:
    """Return the subfolder with one of `names`; two of them are an error."""
    matches = named(folder, names)
    _require_one(folder, matches, category)
    return matches[0] if matches else None


def _require_one(folder: Path, matches: Sequence[Path], category: Category) -> None:
    if len(matches) > 1:
        category.errors.append(
            f"{folder} must have only one such folder; got "
            f"{' and '.join(path.name for path in matches)}; merge them, or move one elsewhere."
        )


def _good_folder(place: Path, is_train: bool, category: Category) -> Path | None:
    """Return the folder of normal images in `place`, the train folder or the category's own."""
    matches = named(place, GOOD)
    _require_one(place, matches, category)
    if matches:
        return matches[0]
    if is_train and list_images(place):
        return place
    unknown = [p.name for p in subfolders(place) if normalize(p.name) not in TEST | MASKS]
    hint = "; rename the folder of normal images to good (OK, normal and pass also work)"
    hint = f" but {join_names(unknown)}{hint}" if unknown else ""
    category.errors.append(
        f"category {category.name} must have a folder train/good; {place} has none{hint}."
    )
    return None


def _test_folders(test: Path, category: Category) -> dict[str, Path]:
    """Return the folders of a test folder by defect type."""
    inside = subfolders(test)
    good = [path for path in inside if is_good(path)]
    _require_one(test, good, category)
    ambiguous = ambiguous_names(path.name for path in inside)
    if ambiguous:
        category.errors.append(
            f"category {category.name}: {join_names(ambiguous)} in {test} must say whether its "
            "images are normal or anomalous; rename the folder of normal images to good, and "
            "others to their defect type."
        )
    direct = list_images(test)
    if direct:
        category.warnings.append(
            f"{test}: {len(direct)} images directly in this folder are not used; move them to "
            "test/good or test/<defect>."
        )
    defects = {"good": good[0]} if good else {}
    for path in inside:
        if normalize(path.name) in MASKS and not list_images(path):
            continue
        if is_bad(path) and not list_images(path):
            defects |= _bad_folders(path, category)
        elif not is_good(path):
            defects[path.name] = path
    return defects


def _bad_folders(bad: Path, category: Category, exclude: Path | None = None) -> dict[str, Path]:
    """Return the folders by defect type: `bad` itself if it has images, and its subfolders.

    exclude: a subfolder to skip, because it is the one of normal images.
    """
    defects = {}
    if list_images(bad):
        defects["bad" if is_good(bad) else bad.name] = bad
    for path in subfolders(bad):
        excluded = exclude is not None and path.resolve() == exclude.resolve()
        if normalize(path.name) in MASKS or excluded:
            continue
        if is_good(path):
            category.errors.append(
                f"{bad} must contain only anomalous images; it contains the folder {path.name}; "
                "move it elsewhere."
            )
        elif list_images(path):
            defects[path.name] = path
    return defects


def _masks_by_stem(folder: Path, masks: Path | None) -> dict[str, Path]:
    """Return the masks of the images in `folder`, by file stem."""
    if masks is None:
        return {}
    inside = subfolders(masks)
    name, parent = folder.name.casefold(), folder.parent.name.casefold()
    matches = [path for path in inside if path.name.casefold() == name]
    for path in inside:  # test/NG/scratch: masks in ground_truth/NG/scratch or ground_truth/scratch
        if path.name.casefold() == parent:
            matches += [p for p in subfolders(path) if p.name.casefold() == name]
    matches.sort(key=lambda path: path.name != folder.name)
    if not matches and inside:
        return {}
    return {path.stem: path for path in list_images(matches[0] if matches else masks)}


def _images_below(folders: Iterable[Path]) -> list[Path]:
    return [
        path for each in folders for path in (*list_images(each), *_images_below(subfolders(each)))
    ]


def _split_good(category: Category, folders: CategoryFolders) -> None:
    """Move a fifth of the normal images from train to test, selected by a hash of their names, so
    that the same data always give the same test set. Train keeps MIN_NORMAL_IMAGES."""
    normal = category.train
    count = max(0, min(len(normal) // TEST_DIVISOR, len(normal) - MIN_NORMAL_IMAGES))
    if not count:
        category.warnings.append(
            f"category {category.name}: {folders.good} has too few normal images to use some for "
            "test; the false reject rate on test cannot be measured."
        )
        return
    order = sorted(normal, key=lambda s: hashlib.sha256(os.fsencode(s.path.name)).digest())
    selected = set(order[:count])
    category.test += [record for record in normal if record in selected]
    category.train = [record for record in normal if record not in selected]
    category.warnings.append(
        f"category {category.name}: {count} of {len(normal)} normal images, selected by name, are "
        "used for test and not for training; use folders train/good and test/good to choose them "
        "yourself."
    )
