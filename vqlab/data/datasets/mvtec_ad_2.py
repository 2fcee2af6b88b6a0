"""MVTec AD 2: train/good, validation/good, test_public with masks; private test sets without
labels."""

from __future__ import annotations

from pathlib import Path

from vqlab.data.category import Category
from vqlab.data.category_folders import find_folders, list_samples
from vqlab.data.datasets.dataset import Counts, Dataset, Layout
from vqlab.types import UserError

PUBLIC = "test_public"
PRIVATE = ("test_private", "test_private_mixed")
_COUNTS = {
    "can": (412, 46, 72, 90), "fabric": (387, 43, 66, 90), "fruit_jelly": (263, 37, 20, 60),
    "rice": (313, 35, 42, 90), "sheet_metal": (137, 19, 24, 90), "vial": (291, 41, 35, 105),
    "wallplugs": (293, 33, 60, 90), "walnuts": (432, 48, 60, 90),
}  # fmt: skip
"""Heckler-Kram et al., The MVTec AD 2 Dataset, arXiv:2503.21622: train, validation, test_public
normal and anomalous."""


class MVTecAD2(Dataset):
    """MVTec AD 2; test_public is the test set."""

    name = "MVTec AD 2"
    counts = {name: Counts(a + b, good, bad) for name, (a, b, good, bad) in _COUNTS.items()}
    validation = {name: numbers[1] for name, numbers in _COUNTS.items()}

    def is_category(self, folder: Path) -> bool:
        return any((folder / name).is_dir() for name in (PUBLIC, *PRIVATE))

    def add_records(self, layout: Layout, folder: Path, category: Category) -> None:
        list_samples(find_folders(folder, category), category)
        if not (folder / PUBLIC).is_dir():
            category.warnings.append(
                f"category {category.name}: {folder} has no {PUBLIC}; {' and '.join(PRIVATE)} have "
                "no labels and are not evaluated; score them with `vqlab predict`."
            )

    def is_unused(self, folder: Path, path: Path) -> bool:
        return path.name in PRIVATE or path == folder / PUBLIC


def require_labels(folder: Path, setting: str) -> None:
    """Raise UserError if `folder` is a private test set of MVTec AD 2, which has no labels.

    setting: what names the folder, e.g. `data.root`.
    """
    if folder.absolute().name in PRIVATE:
        raise UserError(
            f"{setting} must have labels; {folder} is a private test set of MVTec AD 2, whose "
            f"labels are not published; evaluate on {PUBLIC} (the folder above it), and score "
            f"this one with `vqlab predict`."
        )
