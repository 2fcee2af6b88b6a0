"""MVTec AD 2: test_public is the test set; the private test sets have no labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stand_ins import make_mvtec_ad_2

from vqlab.data import DataSettings, check_dataset, load_dataset
from vqlab.data.datasets import DATASETS, Counts
from vqlab.data.layouts import detect_layout, read_category
from vqlab.types import UserError


def test_splits(tmp_path: Path) -> None:
    make_mvtec_ad_2(tmp_path)
    layout = detect_layout(tmp_path)
    assert layout.source == "MVTec AD 2 layout"
    can = read_category(layout, "can")
    assert can.errors == [] and can.warnings == []
    assert (len(can.train), len(can.held_out)) == (6, 3)
    assert [(r.defect, r.mask is not None) for r in can.test] == [
        ("bad", True), ("bad", True), ("good", False), ("good", False),
    ]  # fmt: skip
    assert not any("private" in str(record.path) for record in can.records)
    splits = load_dataset(DataSettings(root=tmp_path / "can", image_size=32))
    assert splits.source == "MVTec AD 2 layout" and len(splits.held_out) == 3


def test_check_compares_the_published_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_mvtec_ad_2(tmp_path)
    report = check_dataset(tmp_path)
    assert report.rows[0].published == "MVTec AD 2 has 458 / 72 / 90" and not report.errors
    dataset = next(each for each in DATASETS if each.name == "MVTec AD 2")
    monkeypatch.setitem(dataset.counts, "can", Counts(9, 2, 2))
    report = check_dataset(tmp_path)
    assert report.rows[0].published == "as MVTec AD 2"
    assert ["3 images in validation/good, MVTec AD 2 has 46" in w for w in report.warnings] == [1]
    monkeypatch.setitem(dataset.validation, "can", 3)
    assert check_dataset(tmp_path).warnings == []


@pytest.mark.parametrize("name", ["test_private", "test_private_mixed"])
def test_private_test_set_without_labels_raises(tmp_path: Path, name: str) -> None:
    folder = make_mvtec_ad_2(tmp_path)
    words = f"must have labels; .*{name} is a private test set.*test_public.*vqlab predict"
    for setting in ({"root": folder / name}, {"good": folder / "train/good", "bad": folder / name}):
        with pytest.raises(UserError, match=words) as error:
            load_dataset(DataSettings.model_validate({**setting, "image_size": 32}))
        assert "\n" not in str(error.value)


def test_without_the_public_test_set(tmp_path: Path) -> None:
    shutil.rmtree(make_mvtec_ad_2(tmp_path) / "test_public")
    can = read_category(detect_layout(tmp_path), "can")
    assert can.errors == [] and can.test == []
    assert (
        "have no labels and are not evaluated; score them with `vqlab predict`" in (can.warnings[0])
    )
