"""Contact sheets of datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import make_category

from vqlab.data import DataSettings, contact_sheet, load_dataset, read_image, write_image_set
from vqlab.data.contact_sheet import (
    CAPTION,
    COLUMNS,
    MAX_TILES,
    RED,
    TILE,
    image_set_sheet,
    outline,
)
from vqlab.data.images import read_mask
from vqlab.types import UserError


def test_contact_sheet(root: Path, tmp_path: Path) -> None:
    make_category(root, "gear", size=(90, 30), kind="dent")
    written = contact_sheet(root, None, tmp_path / "new/sheet.png")
    sheet = read_image(written)
    assert sheet.shape[1] == COLUMNS * TILE
    single = read_image(contact_sheet(root, ["gear"], tmp_path / "new/one.png"))
    assert sheet.shape[0] == 3 * single.shape[0]
    assert (single == RED).all(axis=2).any()
    assert [path.name for path in sorted((tmp_path / "new").iterdir())] == ["one.png", "sheet.png"]


def test_outline_does_not_cover_the_inside() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:30] = True
    outlined = outline(image, mask)
    red = (outlined == RED).all(axis=2)
    assert red[9, 10:30].all() and red[20, 10:30].all() and not red[mask].any()
    assert not image.any()


def test_invalid_arguments_raise(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no category cable"):
        contact_sheet(root, ["cable"], tmp_path / "a.png")
    (root / "nut/train/good/000.png").write_text("hello")
    with pytest.raises(UserError, match="000.png cannot be used"):
        contact_sheet(root, ["nut"], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        contact_sheet(root, ["bolt"], tmp_path / "file/a.png")


def test_write_validation(root: Path, tmp_path: Path) -> None:
    splits = load_dataset(DataSettings(root=root, categories="nut", image_size=32))
    folder = write_image_set(splits.validation, tmp_path / "validation")
    names = sorted(path.name for path in folder.iterdir())
    assert names[:2] == ["nut_000_good.png", "nut_001_good.png"]
    assert len(names) == 2 + 20 * 2, "10 copies of each of 2 held-out images"
    mask = next(path for path in folder.iterdir() if path.name.endswith("_mask.png"))
    assert read_mask(mask).any() and read_mask(mask).shape == (20, 24)


def test_sheet_of_a_dataset(root: Path) -> None:
    settings = DataSettings(root=root, categories="all", image_size=32, synthetic_defects=20)
    splits = load_dataset(settings)
    assert len(splits.validation) > MAX_TILES
    sheet = image_set_sheet(splits.validation)
    rows = (sheet.shape[0] - 26) / (TILE + CAPTION)
    assert sheet.shape[1] == COLUMNS * TILE and rows in range(1, MAX_TILES // COLUMNS + 1)
    assert (sheet == RED).all(axis=2).any()
    assert splits.validation_sheet is splits.validation_sheet
    np.testing.assert_array_equal(splits.validation_sheet, sheet)
    good = splits.held_out.subset([0])
    assert image_set_sheet(good).shape[0] == 26 + TILE + CAPTION
    assert not (image_set_sheet(good)[26:] == RED).all(axis=2).any()
