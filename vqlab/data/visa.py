"""VisA as downloaded: which images are in which split stands in a table."""

from __future__ import annotations

import csv
from pathlib import Path

from vqlab.data.category import Category, images_in, listing, remark_orphans
from vqlab.types import Sample, UserError

VISA_SPLIT = Path("split_csv/1cls.csv")
VISA_COLUMNS = ("object", "split", "label", "image", "mask")


def visa_rows(root: Path) -> list[dict[str, str]]:
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


def read_visa(root: Path, folder: Path, category: Category) -> None:
    """Enter the samples of a category by the table below `root`; its images lie in `folder`."""
    named: set[Path] = set()
    for row in visa_rows(root):
        if row["object"] != category.name:
            continue
        path = root / row["image"]
        normal = row["label"] == "normal"
        mask = None if normal or not row["mask"] else root / row["mask"]
        named |= {path} | ({mask} if mask else set())
        if mask is not None and not mask.is_file():
            mask = None
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
            f"{root / VISA_SPLIT} lists none."
        )
    data = folder / "Data"
    remark_orphans(category, set(images_in(data / "Masks/Anomaly")) - named)
    kinds = ("Normal", "Anomaly")
    extra = {p for kind in kinds for p in images_in(data / "Images" / kind)} - named
    if extra:
        which = listing([path.name for path in sorted(extra)])
        category.remarks.append(f"category {category.name}: not in the split, unused: {which}.")
