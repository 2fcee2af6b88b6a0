"""VisA as downloaded: a CSV file assigns images to splits."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from vqlab.data.category import Category, list_images, warn_unmatched_masks
from vqlab.data.datasets.dataset import Counts, Dataset, Layout
from vqlab.data.folder_names import subfolders
from vqlab.text import join_names
from vqlab.types import ImageRecord, UserError

VISA_SPLIT = Path("split_csv/1cls.csv")
VISA_COLUMNS = ("object", "split", "label", "image", "mask")
_COUNTS = {
    "candle": (900, 100, 100), "capsules": (542, 60, 100), "cashew": (450, 50, 100),
    "chewinggum": (453, 50, 100), "fryum": (450, 50, 100), "macaroni1": (900, 100, 100),
    "macaroni2": (900, 100, 100), "pcb1": (904, 100, 100), "pcb2": (901, 100, 100),
    "pcb3": (905, 101, 100), "pcb4": (904, 101, 100), "pipe_fryum": (450, 50, 100),
}  # fmt: skip
"""Zou et al., SPot-the-Difference (2022): the one-class split, split_csv/1cls.csv."""


class VisA(Dataset):
    """VisA; reorganised by its authors' script it is in the layout of MVTec AD."""

    name = "VisA"
    counts = {category: Counts(*numbers) for category, numbers in _COUNTS.items()}

    def detect(self, root: Path) -> Layout | None:
        if (root / VISA_SPLIT).is_file():
            objects = {row["object"] for row in visa_rows(root)}
            folders = {path.name: path for path in subfolders(root) if path.name in objects}
            return Layout(root, self.source, folders, dataset=self)
        folder = Path(os.path.abspath(root))
        if (root / "Data/Images").is_dir() and (folder.parent / VISA_SPLIT).is_file():
            folders = {folder.name: folder}
            return Layout(folder.parent, self.source, folders, single=True, dataset=self)
        return None

    def add_records(self, layout: Layout, folder: Path, category: Category) -> None:
        read_visa(layout.root, folder, category)

    def place(self, layout: Layout, folder: Path) -> Path:
        return layout.root / VISA_SPLIT

    def is_unused(self, folder: Path, path: Path) -> bool:
        return path in (folder / "Data/Images/Normal", folder / "Data/Images/Anomaly")


def visa_rows(root: Path) -> list[dict[str, str]]:
    """Return the rows of split_csv/1cls.csv. Raises UserError if the file is invalid."""
    path = root / VISA_SPLIT
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"VisA's split {path} cannot be read: {error}.") from None
    for number, row in enumerate(rows, start=2):
        valid = (
            all(isinstance(row.get(column), str) for column in VISA_COLUMNS)
            and row["split"] in ("train", "test")
            and row["label"] in ("normal", "anomaly")
        )
        if not valid:
            raise UserError(
                f"VisA's split {path} must have the columns {', '.join(VISA_COLUMNS)} (train or "
                f"test, normal or anomaly); line {number} is {list(row.values())}; fix the file."
            )
    if not rows:
        raise UserError(f"VisA's split {path} must list images; it has no rows.")
    return rows


def read_visa(root: Path, folder: Path, category: Category) -> None:
    """Add the records of a category from the table below `root`; `folder` contains its images."""
    listed: set[Path] = set()
    for row in visa_rows(root):
        if row["object"] != category.name:
            continue
        path = root / row["image"]
        normal = row["label"] == "normal"
        mask = None if normal or not row["mask"] else root / row["mask"]
        listed |= {path} | ({mask} if mask else set())
        if mask is not None and not mask.is_file():
            mask = None
        if row["split"] == "test":
            defect = "good" if normal else "bad"
            category.test.append(ImageRecord(path, category.name, defect, mask))
        elif normal:
            category.train.append(ImageRecord(path, category.name, "good"))
    category.train.sort(key=lambda record: record.path)
    category.test.sort(key=lambda record: (record.defect, record.path))
    if not category.train:
        category.errors.append(
            f"category {category.name} must have normal images to train on; "
            f"{root / VISA_SPLIT} lists none."
        )
    data = folder / "Data"
    warn_unmatched_masks(category, set(list_images(data / "Masks/Anomaly")) - listed)
    kinds = ("Normal", "Anomaly")
    unlisted = {p for kind in kinds for p in list_images(data / "Images" / kind)} - listed
    if unlisted:
        names = join_names([path.name for path in sorted(unlisted)])
        category.warnings.append(
            f"category {category.name}: skipped {names}: not listed in the split."
        )
