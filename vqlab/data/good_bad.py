"""Find and read the folders of one category: train and test, or one of good and one of bad images.

`train/good`, `test/good`, `test/<defect>`, `ground_truth/<defect>` is MVTec AD's layout. Where
there is no train and no test folder, a folder of good images and one of bad images are enough (`OK`
and `NG`); then a fifth of the good images becomes test normals.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vqlab.data.category import FEWEST, Category, images_in, listing, remark_orphans, suffixes
from vqlab.data.folder_names import (
    BAD,
    GOOD,
    MASKS,
    TEST,
    TRAIN,
    is_bad,
    is_good,
    meaning,
    named,
    subfolders,
    unclear,
)
from vqlab.types import Sample

SHARE = 5
"""One in so many good images becomes a test normal where no folder says which ones do."""


@dataclass(frozen=True)
class Places:
    """The folders of one category."""

    good: Path | None
    """Normal images to train on."""
    kinds: dict[str, Path] = field(default_factory=dict)
    """Test images by kind; those of the kind `good` are normal."""
    masks: Path | None = None
    """Holds the masks of each kind in a folder of its name, or all of them directly."""
    shared: bool = False
    """`good` also gives the test normals."""


def is_category(folder: Path) -> bool:
    """Whether a folder has the folders of a category."""
    return bool(named(folder, TRAIN | TEST)) or is_good_and_bad(folder)


def is_good_and_bad(folder: Path) -> bool:
    """Whether a folder has a folder of good images itself, and neither train nor test."""
    if named(folder, TRAIN | TEST):
        return False
    return any(images_in(path) for path in named(folder, GOOD))


def places_in(folder: Path, category: Category) -> Places:
    """Return the places of the images of a category's folder; faults and remarks go to it."""
    train = _only(folder, TRAIN, category)
    test = _only(folder, TEST, category)
    masks = _only(folder, MASKS, category)
    good = _good_of(train or folder, train is not None, category)
    if test is not None:
        return Places(good, _kinds(test, category), masks)
    bad = named(folder, BAD)
    kinds = {name: path for each in bad for name, path in _defects(each, category).items()}
    if train is None:
        ours = [good, *bad, masks]
        rest = [path.name for path in subfolders(folder) if path not in ours and not is_good(path)]
        if rest:
            category.remarks.append(
                f"{folder}: {listing(rest)} means neither good nor bad images, unused; a kind of "
                f"defect must be called NG/{rest[0]} or bad/{rest[0]}."
            )
    return Places(good, kinds, masks, shared=bool(kinds) and train is None)


def places_of(good: Path, bad: Path | None, category: Category) -> Places:
    """Return the places for a folder of good images and, if there is one, of bad images.

    Images of `bad` are defects of the kind that the folder's name says, those in its subfolders of
    the kind that theirs say.
    """
    if not good.is_dir():
        category.faults.append(f"data.good must be a folder of good images; {good} is none.")
    elif is_category(good) and not images_in(good):
        category.faults.append(
            f"data.good must be a folder of good images; {good} has folders of its own for them; "
            f"give it with --data {good}, or --good {_inner(good)}."
        )
        return Places(None)
    if bad is None:
        return Places(good)
    if not bad.is_dir():
        category.faults.append(f"data.bad must be a folder of defective images; {bad} is none.")
        return Places(good)
    if bad.resolve() == good.resolve():
        category.faults.append(f"data.good and data.bad must be two folders; got {good} for both.")
        return Places(good)
    kinds = _defects(bad, category, but=good)
    if not kinds and not category.faults:
        category.faults.append(f"{bad} must hold images ({suffixes()}); it holds none.")
    masks = _only(bad, MASKS, category) or _only(bad.parent, MASKS, category)
    return Places(good, kinds, masks, shared=True)


def read_places(places: Places, category: Category) -> None:
    """Enter the samples of a category; faults and remarks go to it."""
    name, good = category.name, places.good
    if good is not None:
        category.train = [Sample(path, name, "good") for path in images_in(good, category)]
        if good.is_dir() and not category.train:
            category.faults.append(f"{good} must hold images ({suffixes()}); it holds none.")
    if places.shared:
        _share(category, places)
    used: set[Path] = set()
    for kind, folder in places.kinds.items():
        masks = {} if kind == "good" else _masks_of(folder, places.masks)
        for path in images_in(folder, category):
            mask = masks.get(f"{path.stem}_mask") or masks.get(path.stem)
            used |= {mask} if mask else set()
            category.test.append(Sample(path, name, kind, mask))
    category.test.sort(key=lambda sample: (sample.defect, sample.path))
    if places.masks is not None:
        every = [*images_in(places.masks), *_below(subfolders(places.masks))]
        remark_orphans(category, {path for path in every if not is_good(path.parent)} - used)


def _inner(folder: Path) -> Path:
    """The folder of good images inside a category's folder, as far as it is known."""
    train = named(folder, TRAIN)
    place = train[0] if train else folder
    return next(iter(named(place, GOOD)), place)


def _only(folder: Path, names: Iterable[str], category: Category) -> Path | None:
    """The one subfolder whose name means one of `names`; two of them are a fault."""
    there = named(folder, names)
    if len(there) > 1:
        category.faults.append(_twice(folder, there))
    return there[0] if there else None


def _twice(folder: Path, there: Sequence[Path]) -> str:
    both = " and ".join(path.name for path in there)
    return (
        f"{folder} must have one folder of that meaning; got {both}; put their images into one, or "
        "move the others elsewhere."
    )


def _good_of(place: Path, train: bool, category: Category) -> Path | None:
    """The folder of good images in `place`, the train folder or the category's own."""
    there = named(place, GOOD)
    if len(there) > 1:
        category.faults.append(_twice(place, there))
    if there:
        return there[0]
    if train and images_in(place):
        return place
    inside = [p.name for p in subfolders(place) if meaning(p.name) not in TEST | MASKS]
    rename = ""
    if inside:
        rename = (
            f" but {listing(inside)}; call the folder of good images good (OK, normal and pass are "
            "understood, too)"
        )
    category.faults.append(
        f"category {category.name} must have a folder train/good; {place} has none{rename}."
    )
    return None


def _kinds(test: Path, category: Category) -> dict[str, Path]:
    """The folders of a test folder by kind."""
    inside = subfolders(test)
    good = [path for path in inside if is_good(path)]
    if len(good) > 1:
        category.faults.append(_twice(test, good))
    doubtful = unclear(path.name for path in inside)
    if doubtful:
        category.faults.append(
            f"category {category.name}: {listing(doubtful)} in {test} must say whether it holds "
            "good or defective images; call the folder of good ones good, and others by their "
            "kind of defect."
        )
    direct = images_in(test)
    if direct:
        category.remarks.append(
            f"{test}: {len(direct)} images are in no folder that says whether they are good, "
            "unused; move them to test/good or test/<defect>."
        )
    kinds = {"good": good[0]} if good else {}
    for path in inside:
        if is_bad(path) and not images_in(path):
            kinds |= _defects(path, category)
        elif not is_good(path):
            kinds[path.name] = path
    return kinds


def _defects(bad: Path, category: Category, but: Path | None = None) -> dict[str, Path]:
    """The folders of defects by kind: `bad` itself if it has images, and its subfolders.

    but: a subfolder that is left out, because it is the one of good images.
    """
    kinds = {}
    if images_in(bad):
        kinds["bad" if is_good(bad) else bad.name] = bad
    for path in subfolders(bad):
        if meaning(path.name) in MASKS or (but is not None and path.resolve() == but.resolve()):
            continue
        if is_good(path):
            category.faults.append(
                f"{bad} must hold defective images alone; it has a folder {path.name}; move it "
                "elsewhere."
            )
        elif images_in(path):
            kinds[path.name] = path
    return kinds


def _masks_of(kind: Path, masks: Path | None) -> dict[str, Path]:
    """The masks of a kind's images, by stem."""
    if masks is None:
        return {}
    inside = subfolders(masks)
    wanted = [kind.name, kind.parent.name]
    near = [path for path in inside if path.name.casefold() == kind.name.casefold()]
    for path in inside:  # test/NG/scratch: masks in ground_truth/NG/scratch, or in .../scratch
        if path.name.casefold() == wanted[1].casefold():
            near += [p for p in subfolders(path) if p.name.casefold() == wanted[0].casefold()]
    near.sort(key=lambda path: path.name != kind.name)
    folder = near[0] if near else masks
    if not near and inside:
        return {}
    return {path.stem: path for path in images_in(folder)}


def _below(folders: Iterable[Path]) -> list[Path]:
    return [path for each in folders for path in (*images_in(each), *_below(subfolders(each)))]


def _share(category: Category, places: Places) -> None:
    """Move a fifth of the normal images from train to test, chosen by their names alone, so that
    the same data always have the same test set. Train keeps the FEWEST."""
    normals = category.train
    count = max(0, min(len(normals) // SHARE, len(normals) - FEWEST))
    if not count:
        category.remarks.append(
            f"category {category.name}: {places.good} has too few good images to give some to "
            "test; false rejects on test cannot be measured."
        )
        return
    order = sorted(normals, key=lambda s: hashlib.sha256(os.fsencode(s.path.name)).digest())
    chosen = set(order[:count])
    category.test += [sample for sample in normals if sample in chosen]
    category.train = [sample for sample in normals if sample not in chosen]
    category.remarks.append(
        f"category {category.name}: {count} of {len(normals)} good images, chosen by name and not "
        "trained on, are the test normals; folders train/good and test/good would say which ones."
    )
