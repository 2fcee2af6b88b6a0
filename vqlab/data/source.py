"""Where the images are: the folder the user names, else one in its usual place, else synthetic."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vqlab.data.image_set import Progress
from vqlab.data.layouts import GOOD_ALONE, GOOD_AND_BAD, Layout, good_and_bad, listing, recognise
from vqlab.data.published import HOW_TO_GET
from vqlab.data.settings import DataSettings
from vqlab.data.synthetic import CATEGORIES, MARKER, make_synthetic
from vqlab.errors import UserError, did_you_mean

USUAL = (Path("data/MVTec"), Path("data/VisA"))
SYNTHETIC = Path("data/synthetic")
SYNTHETIC_SOURCE = "synthetic"


def find_root(settings: DataSettings, progress: Progress | None = None) -> tuple[Path, str]:
    """The data set's folder and its source: `synthetic`, or that of its layout.

    With `data.good` it is that folder. Without `data.root`: of data/MVTec and data/VisA (below the
    working folder) the first that has the categories asked for; where neither exists, the built-in
    synthetic set. Of that, the categories asked for are drawn where they are not there yet, which
    takes a minute or two:
    `progress` is called with (pictures done, total).
    Raises UserError where the folder is missing or holds no category, and for a category that the
    synthetic set does not have.
    """
    _require_one_source(settings)
    if settings.good is not None:
        return settings.good, GOOD_ALONE if settings.bad is None else GOOD_AND_BAD
    root = settings.root or _usual(settings)
    if root != SYNTHETIC and not (root / MARKER).is_file():
        return root, source_of(root)
    asked = CATEGORIES if settings.categories == "all" else settings.categories
    strangers = [name for name in asked if name not in CATEGORIES]
    if strangers:
        raise UserError(_not_synthetic(strangers, root))
    make_synthetic(root, list(asked), _seed_of(root), progress)
    return root, SYNTHETIC_SOURCE


def find_layout(settings: DataSettings) -> Layout:
    """The layout of the data that `settings` ask for; see `find_root`."""
    root, source = find_root(settings)
    if settings.good is not None:
        return good_and_bad(root, settings.bad, choose_categories(settings)[0])
    return replace(recognise(root), source=source)


def folder_name(folder: Path) -> str:
    """The name of a folder, also where it is given as `.`."""
    return Path(os.path.abspath(folder)).name


def _require_one_source(settings: DataSettings) -> None:
    """Raise UserError where data are given in two ways."""
    if settings.good is not None and settings.root is not None:
        raise UserError(
            f"data must be a data set (data.root, --data) or a folder of good images (data.good, "
            f"--good); got {settings.root} and {settings.good}; leave one out."
        )
    if settings.bad is not None and settings.good is None:
        raise UserError(
            f"data.bad {settings.bad} must have a folder of good images beside it; give one with "
            "--good (data.good)."
        )


def _usual(settings: DataSettings) -> Path:
    there = [root for root in USUAL if root.exists()]
    wanted = set() if settings.categories == "all" else set(settings.categories)
    fitting = [root for root in there if wanted <= set(recognise(root).folders)]
    return [*fitting, *there, SYNTHETIC][0]


def _seed_of(root: Path) -> int:
    """The seed that the synthetic set in `root` was drawn with."""
    try:
        return int(json.loads((root / MARKER).read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def source_of(root: Path) -> str:
    """`synthetic`, or the name of the layout."""
    layout = recognise(root)
    return SYNTHETIC_SOURCE if (layout.root / MARKER).is_file() else layout.source


def describe_source(root: Path, source: str) -> str:
    """One loud line for the user: which images this is about."""
    if source == SYNTHETIC_SOURCE:
        return (
            f"DATA: the BUILT-IN SYNTHETIC SET in {root}, drawn pictures and no photographs: its "
            "figures say nothing about real products (DATA=path or data.root takes yours)."
        )
    return f"DATA: {root} ({source})."


def categories_in(root: Path) -> list[str]:
    """The names of the categories of a folder, sorted. Raises UserError where it holds none."""
    return sorted(recognise(root).folders)


def choose_categories(settings: DataSettings) -> tuple[str, ...]:
    """The categories that `settings` mean, `all` spelled out.

    Where `data.root` is itself the folder of one category and none was asked for, it is that one.
    Of `data.good` it is the one asked for, else it has the folder's name.
    Raises UserError that lists those there and says how to get data sets.
    """
    if settings.good is not None:
        return (_of_good(settings),)
    root, _ = find_root(settings)
    layout = recognise(root)
    there = sorted(layout.folders)
    if settings.categories == "all":
        return tuple(there)
    if layout.alone and "categories" not in settings.model_fields_set:
        return tuple(there)
    missing = [name for name in settings.categories if name not in layout.folders]
    if not missing:
        return settings.categories
    raise UserError(_not_there(missing, root, layout, settings))


def _of_good(settings: DataSettings) -> str:
    """The category of `data.good`."""
    assert settings.good is not None
    if "categories" not in settings.model_fields_set:
        return folder_name(settings.good)
    if settings.categories == "all" or len(settings.categories) != 1:
        names = settings.categories
        raise UserError(
            f"data.good {settings.good} must be the images of one category; got "
            f"{names if isinstance(names, str) else listing(names)}; name one with --category."
        )
    return settings.categories[0]


def _not_there(missing: list[str], root: Path, layout: Layout, settings: DataSettings) -> str:
    there = sorted(layout.folders)
    what = "category" if len(missing) == 1 else "categories"
    if layout.alone:
        return (
            f"data.root {root} is itself the folder of the category {there[0]}; data.categories "
            f"asks for {listing(missing)}; ask for {there[0]}, or give the folder above it."
        )
    for name in missing:
        if (layout.root / name).is_dir():
            return f"category {name} must have a folder train/good; {layout.root / name} has none."
    sentence = f"there is no {what} {listing(missing)} in {root}"
    hint = _meant(missing, there)
    if hint:
        return f"{sentence}; {hint}"
    sentence += f"; it has {listing(there, most=30)}"
    others = [
        f"{other} has {listing(categories_in(other), most=30)}"
        for other in USUAL
        if settings.root is None and other != root and other.exists()
    ]
    return "; ".join([sentence, *others]) + f".\n{HOW_TO_GET}"


def _not_synthetic(strangers: list[str], root: Path) -> str:
    sentence = f"there is no category {listing(strangers)} in the built-in synthetic set"
    hint = _meant(strangers, CATEGORIES)
    if hint:
        return f"{sentence}; {hint}"
    return f"{sentence} ({root}); it has {listing(CATEGORIES)}.\n{HOW_TO_GET}"


def _meant(missing: list[str], there: Iterable[str]) -> str:
    """Return `did you mean cable?` where a single category is missing and a name there is close."""
    return did_you_mean(missing[0], there) if len(missing) == 1 else ""
