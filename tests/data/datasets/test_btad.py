"""BTAD: the layout of MVTec AD with other folder names."""

from __future__ import annotations

from pathlib import Path

from stand_ins import make_btad

from vqlab.data import check_dataset
from vqlab.data.layouts import detect_layout, read_category


def test_splits_masks_and_counts(tmp_path: Path) -> None:
    make_btad(tmp_path)
    layout = detect_layout(tmp_path)
    assert layout.source == "BTAD layout"
    category = read_category(layout, "01")
    assert category.errors == [] and category.warnings == [] and len(category.train) == 6
    assert [(r.defect, r.mask is not None) for r in category.test] == [
        ("good", False), ("good", False), ("ko", True), ("ko", True),
    ]  # fmt: skip
    assert check_dataset(tmp_path).rows[0].published == "BTAD has 400 / 21 / 49"
