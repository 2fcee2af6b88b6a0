"""KolektorSDD2: the mask next to an image determines its label."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import make_category, write_mask
from stand_ins import make_kolektor_sdd2

from vqlab.data import DataSettings, check_dataset, load_dataset
from vqlab.data.layouts import detect_layout, read_category
from vqlab.types import UserError


def test_anomalous_training_images_and_copies_are_not_used(tmp_path: Path) -> None:
    folder = make_kolektor_sdd2(tmp_path)
    layout = detect_layout(folder)
    assert layout.source == "KolektorSDD2 layout" and layout.single
    category = read_category(layout, "KolektorSDD2")
    assert category.errors == []
    assert [r.path.name for r in category.train] == [f"1000{i}.png" for i in range(6)]
    assert [(r.path.name, r.defect, r.mask and r.mask.name) for r in category.test] == [
        ("20002.png", "defect", "20002_GT.png"), ("20003.png", "defect", "20003_GT.png"),
        ("20000.png", "good", None), ("20001.png", "good", None),
    ]  # fmt: skip
    text = " ".join(category.warnings)
    assert "1 of 7 images in train are anomalous and not used" in text
    assert "skipped 10000 (copy).png, 10000_GT (copy).png in train" in text
    assert len(category.warnings) == 2
    splits = load_dataset(DataSettings(root=folder, image_size=32))
    assert splits.test.batch([0]).masks.any()
    assert check_dataset(folder).rows[0].published == "KolektorSDD2 has 2085 / 894 / 110"


def test_label_depends_on_the_mask(tmp_path: Path) -> None:
    """Also within one process, which caches the content of a mask by size and time."""
    folder = make_kolektor_sdd2(tmp_path)
    layout = detect_layout(folder)
    assert len(read_category(layout, "KolektorSDD2").train) == 6
    write_mask(folder / "train/10003_GT.png", value=1)
    assert len(read_category(layout, "KolektorSDD2").train) == 5


def test_combined_with_categories_of_another_dataset(tmp_path: Path) -> None:
    make_kolektor_sdd2(tmp_path)
    make_category(tmp_path, "bottle")
    layout = detect_layout(tmp_path)
    assert layout.source == "several layouts"
    assert len(read_category(layout, "bottle").test) == 4
    assert len(read_category(layout, "KolektorSDD2").test) == 4
    assert [row.published for row in check_dataset(tmp_path).rows] == [
        "KolektorSDD2 has 2085 / 894 / 110", "MVTec AD has 209 / 20 / 63",
    ]  # fmt: skip


def test_damaged_mask_raises(tmp_path: Path) -> None:
    folder = make_kolektor_sdd2(tmp_path)
    (folder / "test/20000_GT.png").write_text("hello")
    with pytest.raises(UserError, match=r"20000_GT\.png cannot be used: unsupported or corrupt"):
        load_dataset(DataSettings(root=folder, image_size=32))
