"""`vqlab data check` reports all problems, not only the first."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from folders import make_category, make_visa, write_image, write_mask
from PIL import Image

from vqlab.data import DataSettings, check_dataset, load_dataset
from vqlab.data.datasets import DATASETS, MVTEC_AD, Counts
from vqlab.types import UserError


def test_valid_dataset(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check_dataset(root, progress=lambda done, total: calls.append((done, total)))
    assert report.errors == [] and report.warnings == []
    assert [row.category for row in report.rows] == ["bolt", "nut"]
    assert report.rows[0].counts == Counts(6, 2, 2) and report.rows[0].masks == 2
    assert report.rows[0].sizes == "24x20" and report.rows[0].published == ""
    assert calls == [(i, 20) for i in range(1, 21)]
    all_of_it = DataSettings(root=root, categories="all", image_size=32)
    assert report.fingerprint == load_dataset(all_of_it).fingerprint
    nut = check_dataset(root, ["nut"])
    assert nut.fingerprint == nut.rows[0].fingerprint == report.rows[1].fingerprint


def test_all_problems_are_listed(root: Path) -> None:
    nut, bolt = root / "nut", root / "bolt"
    (nut / "train/good/000.png").write_text("hello")
    cut = nut / "train/good/001.png"
    cut.write_bytes(cut.read_bytes()[:700])
    (nut / "ground_truth/hole/000_mask.png").write_text("hello")
    write_mask(nut / "ground_truth/hole/001_mask.png", (10, 10))
    write_mask(nut / "ground_truth/hole/007_mask.png")
    (bolt / "ground_truth/hole/000_mask.png").unlink()
    report = check_dataset(root)
    text = "\n".join(report.errors)
    assert len(report.errors) == 4 and report.fingerprint == ""
    for words in ("good/000.png: unsupported or corrupt image", "good/001.png: it is truncated"):
        assert words in text
    assert "000_mask.png: unsupported or corrupt image" in text
    assert "the mask is 10x10 pixels, its image 24x20" in text
    warnings = "\n".join(report.warnings)
    assert len(report.warnings) == 2 and "bolt: 1 of 2 anomalous images has no mask" in warnings
    assert "(test/hole/000.png)" in warnings
    assert "masks without an image: hole/007_mask.png" in warnings
    assert [bool(row.fingerprint) for row in report.rows] == [True, False]


def test_duplicate_in_train_and_test(root: Path) -> None:
    """Duplicates are equal in pixels, for any file name and format."""
    with Image.open(root / "nut/train/good/004.png") as picture:
        picture.save(root / "nut/test/good/zzz.bmp")
    report = check_dataset(root)
    assert len(report.warnings) == 1 and not report.errors
    assert (
        "1 test image is also in train (train/good/004.png = test/good/zzz.bmp)"
        in report.warnings[0]
    )


def test_empty_mask_of_a_defect(root: Path) -> None:
    write_mask(root / "nut/ground_truth/hole/000_mask.png", value=0)
    report = check_dataset(root)
    assert not report.errors and "1 of 2 masks mark no pixel" in report.warnings[0]


def test_comparison_with_published_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_category(tmp_path, "bottle")
    report = check_dataset(tmp_path)
    assert report.rows[0].published == "MVTec AD has 209 / 20 / 63"
    assert not report.errors and "bottle has 6 / 2 / 2 images" in report.warnings[0]
    monkeypatch.setitem(MVTEC_AD.counts, "bottle", Counts(6, 2, 2))
    report = check_dataset(tmp_path)
    assert report.rows[0].published == "as MVTec AD" and report.warnings == []


@pytest.mark.parametrize(
    ("name", "categories", "train", "validation", "good", "defect"),
    [
        ("MVTec AD", 15, 3629, 0, 467, 1258),
        ("VisA", 12, 8659, 0, 962, 1200),
        ("MVTec AD 2", 8, 2528 + 302, 302, 379, 705),
        ("MVTec LOCO AD", 5, 1778 + 305, 305, 575, 561 + 432),
        ("BTAD", 3, 1799, 0, 451, 290),
        ("KolektorSDD2", 1, 2085, 0, 894, 110),
    ],
)
def test_published_tables(
    name: str, categories: int, train: int, validation: int, good: int, defect: int
) -> None:
    """Totals stated in the papers and archives."""
    dataset = next(each for each in DATASETS if each.name == name)
    assert len(dataset.counts) == categories
    totals = [sum(numbers) for numbers in zip(*dataset.counts.values(), strict=True)]
    assert totals == [train, good, defect]
    assert sum(dataset.validation.values()) == validation


def test_published_totals_of_real_iad() -> None:
    """The archive has 151,050 images, a fifth of them from above."""
    dataset = next(each for each in DATASETS if each.name == "Real-IAD")
    assert [sum(counts) for counts in dataset.totals] == [151_050, 151_050 // 5]


def test_visa(tmp_path: Path) -> None:
    split = make_visa(tmp_path)
    report = check_dataset(tmp_path)
    assert not report.errors and report.source == "VisA layout"
    assert report.rows[0].counts == Counts(6, 2, 2)
    write_mask(tmp_path / "candle/Data/Masks/Anomaly/044.png")
    write_image(tmp_path / "candle/Data/Images/Normal/0999.JPG", 3)
    with split.open("a", newline="") as file:
        gone = "candle/Data/Images/Normal/0777.JPG"
        csv.writer(file).writerow(["candle", "train", "normal", gone, ""])
    report = check_dataset(tmp_path)
    assert len(report.errors) == 1 and "0777.JPG: it does not exist" in report.errors[0]
    text = "\n".join(report.warnings)
    assert "Anomaly/044.png" in text and "skipped 0999.JPG: not listed in the split" in text


def test_folder_without_a_dataset(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no category cable in .*; it has bolt, nut"):
        check_dataset(root, ["cable"])
    with pytest.raises(UserError, match="does not exist"):
        check_dataset(tmp_path / "gone")


def test_category_without_images(root: Path) -> None:
    shutil.rmtree(root / "nut/train/good")
    report = check_dataset(root)
    assert "nut must have a folder train/good" in report.errors[0]
    assert report.rows[1].counts == Counts(0, 2, 2)
