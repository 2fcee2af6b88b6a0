"""Find the dataset: the folder the user names, else a default location, else the synthetic set."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from vqlab.data.datasets import HOW_TO_GET, Layout
from vqlab.data.image_set import Progress
from vqlab.data.layouts import GOOD_ALONE, GOOD_AND_BAD, detect_layout, good_bad_layout, suggestion
from vqlab.data.settings import DataSettings
from vqlab.data.synthetic import CATEGORIES, MARKER, make_synthetic
from vqlab.errors import UserError
from vqlab.text import join_names

DEFAULT_ROOTS = (Path("data/MVTec"), Path("data/VisA"))
SYNTHETIC = Path("data/synthetic")
SYNTHETIC_SOURCE = "synthetic"


def find_root(settings: DataSettings, progress: Progress | None = None) -> tuple[Path, str]:
    """Return the dataset's folder and its source: `synthetic`, or that of its layout.

    With `data.good` it is that folder. Without `data.root` it is the first of data/MVTec and
    data/VisA (in the working directory) that has the requested categories; if neither exists, the
    built-in synthetic set. Requested categories of the synthetic set that do not exist yet are
    generated, which takes a minute or two: `progress` is called with (images done, total).
    Raises UserError if the folder is missing or has no category, and for a category that the
    synthetic set does not have.
    """
    _require_one_source(settings)
    if settings.good is not None:
        return settings.good, GOOD_ALONE if settings.bad is None else GOOD_AND_BAD
    root = settings.root or _default_root(settings)
    if root != SYNTHETIC and not (root / MARKER).is_file():
        return root, source_of(root)
    requested = CATEGORIES if settings.categories == "all" else settings.categories
    unknown = [name for name in requested if name not in CATEGORIES]
    if unknown:
        raise UserError(_not_synthetic(unknown, root))
    make_synthetic(root, list(requested), _seed_of(root), progress)
    return root, SYNTHETIC_SOURCE


def find_layout(settings: DataSettings) -> Layout:
    """Return the layout of the data that `settings` name; see `find_root`."""
    root, source = find_root(settings)
    if settings.good is not None:
        return good_bad_layout(root, settings.bad, choose_categories(settings)[0])
    return replace(detect_layout(root), source=source)


def _require_one_source(settings: DataSettings) -> None:
    """Raise UserError if data are given in two ways."""
    if settings.good is not None and settings.root is not None:
        raise UserError(
            f"data must be a dataset (data.root, --data) or a folder of normal images (data.good, "
            f"--good); got {settings.root} and {settings.good}; remove one of them."
        )
    if settings.bad is not None and settings.good is None:
        raise UserError(
            f"data.bad must be used with a folder of normal images; got {settings.bad} alone; add "
            "--good (data.good)."
        )


def _default_root(settings: DataSettings) -> Path:
    existing = [root for root in DEFAULT_ROOTS if root.exists()]
    requested = set() if settings.categories == "all" else set(settings.categories)
    matching = [root for root in existing if requested <= set(detect_layout(root).folders)]
    return [*matching, *existing, SYNTHETIC][0]


def _seed_of(root: Path) -> int:
    """Return the seed that the synthetic set in `root` was generated with."""
    try:
        return int(json.loads((root / MARKER).read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def source_of(root: Path) -> str:
    """Return `synthetic`, or the source of the layout."""
    layout = detect_layout(root)
    return SYNTHETIC_SOURCE if (layout.root / MARKER).is_file() else layout.source


def describe_source(root: Path, source: str) -> str:
    """Return one line naming the data that are used."""
    if source == SYNTHETIC_SOURCE:
        return (
            f"DATA: the BUILT-IN SYNTHETIC SET in {root}: generated images, not photographs; its "
            "figures say nothing about real products. Use your images with --data PATH "
            "(make: DATA=PATH)."
        )
    return f"DATA: {root} ({source})."


def categories_in(root: Path) -> list[str]:
    """Return the sorted names of a folder's categories. Raises UserError if it has none."""
    return sorted(detect_layout(root).folders)


def choose_categories(settings: DataSettings) -> tuple[str, ...]:
    """Return the categories that `settings` name, with `all` resolved.

    If `data.root` is the folder of one category and none was requested, it is that one. With
    `data.good` it is the requested one, else the folder's name. Raises UserError that lists the
    available ones and says how to get datasets.
    """
    if settings.good is not None:
        return (_category_of_good(settings),)
    root, _ = find_root(settings)
    layout = detect_layout(root)
    available = sorted(layout.folders)
    if settings.categories == "all":
        return tuple(available)
    if layout.single and "categories" not in settings.model_fields_set:
        return tuple(available)
    missing = [name for name in settings.categories if name not in layout.folders]
    if not missing:
        return settings.categories
    raise UserError(_not_available(missing, root, layout, settings))


def _category_of_good(settings: DataSettings) -> str:
    """Return the category of the images in `data.good`."""
    assert settings.good is not None
    if "categories" not in settings.model_fields_set:
        return Path(os.path.abspath(settings.good)).name  # `.` has no name of its own
    if settings.categories == "all" or len(settings.categories) != 1:
        names = settings.categories
        raise UserError(
            f"data.good {settings.good} must contain images of one category; got "
            f"{names if isinstance(names, str) else join_names(names)}; name one with --category."
        )
    return settings.categories[0]


def _not_available(missing: list[str], root: Path, layout: Layout, settings: DataSettings) -> str:
    available = sorted(layout.folders)
    if layout.single:
        return (
            f"data.root {root} is the folder of the category {available[0]}; got data.categories="
            f"{join_names(missing)}; use {available[0]}, or the folder above it."
        )
    for name in missing:
        if (layout.root / name).is_dir():
            return f"category {name} must have a folder train/good; {layout.root / name} has none."
    noun = "category" if len(missing) == 1 else "categories"
    sentence = f"there is no {noun} {join_names(missing)} in {root}"
    if hint := suggestion(missing, available):
        return f"{sentence}; {hint}"
    sentence += f"; it has {join_names(available, limit=30)}"
    alternatives = [
        f"{other} has {join_names(categories_in(other), limit=30)}"
        for other in DEFAULT_ROOTS
        if settings.root is None and other != root and other.exists()
    ]
    return "; ".join([sentence, *alternatives]) + f".\n{HOW_TO_GET}"


def _not_synthetic(unknown: list[str], root: Path) -> str:
    sentence = f"there is no category {join_names(unknown)} in the built-in synthetic set"
    if hint := suggestion(unknown, CATEGORIES):
        return f"{sentence}; {hint}"
    return f"{sentence} ({root}); it has {join_names(CATEGORIES)}.\n{HOW_TO_GET}"
