"""Folders become categories; each error in a folder is one sentence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from folders import make_category, make_visa, write_image, write_mask

from vqlab.data import DataSettings, categories_in, load_dataset
from vqlab.data.layouts import detect_layout, join_names, read_category
from vqlab.types import UserError


def load(root: Path, *categories: str) -> None:
    load_dataset(DataSettings(root=root, categories=categories or "nut", image_size=32))


def test_mvtec_layout(root: Path) -> None:
    layout = detect_layout(root)
    assert layout.source == "MVTec AD layout" and categories_in(root) == ["bolt", "nut"]
    nut = read_category(layout, "nut")
    assert [s.path.name for s in nut.train] == [f"{i:03d}.png" for i in range(6)]
    assert [(s.defect, s.label) for s in nut.test] == [("good", 0)] * 2 + [("hole", 1)] * 2
    masks = [s.mask.name if s.mask else None for s in nut.test]
    assert masks == [None, None, "000_mask.png", "001_mask.png"]
    assert nut.errors == [] and nut.warnings == []


def test_visa_as_downloaded(tmp_path: Path) -> None:
    make_visa(tmp_path, "candle")
    make_visa(tmp_path, "pcb1", train=5)
    make_visa(tmp_path, "fryum")
    shutil.rmtree(tmp_path / "fryum")  # in the split file, but not downloaded
    layout = detect_layout(tmp_path)
    assert layout.source == "VisA layout" and categories_in(tmp_path) == ["candle", "pcb1"]
    pcb1 = read_category(layout, "pcb1")
    assert len(pcb1.train) == 5 and [s.label for s in pcb1.test] == [1, 1, 0, 0]
    assert pcb1.errors == [] and pcb1.warnings == []
    splits = load_dataset(DataSettings(root=tmp_path, categories="pcb1", image_size=32))
    assert splits.source == "VisA layout"
    batch = splits.test.batch(range(4))
    assert batch.masks.flatten(1).any(dim=1).tolist() == [True, True, False, False]  # index 1, 2
    single = DataSettings(root=tmp_path / "candle", image_size=32)
    assert load_dataset(single).categories == ("candle",)


@pytest.mark.parametrize("inside", ["", "1cls"])
def test_visa_reorganised(tmp_path: Path, inside: str) -> None:
    make_category(tmp_path / inside, "candle", kind="bad", suffix="")
    layout = detect_layout(tmp_path)
    assert layout.source == "VisA layout"
    assert [s.mask is not None for s in read_category(layout, "candle").test] == [1, 1, 0, 0]
    splits = load_dataset(DataSettings(root=tmp_path, categories="candle", image_size=32))
    assert splits.test.batch([0]).masks.any()


def test_folder_of_a_single_category(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a category is accepted as root; another category name there raises."""
    expected = load_dataset(DataSettings(root=root, categories="nut", image_size=32))
    splits = load_dataset(DataSettings(root=root / "nut", image_size=32))
    assert splits.categories == ("nut",) and splits.fingerprint == expected.fingerprint
    monkeypatch.chdir(root / "nut")
    assert load_dataset(DataSettings(root=Path("."), image_size=32)).categories == ("nut",)
    with pytest.raises(UserError, match="is the folder of the category nut"):
        load(root / "nut", "cable")


def test_hidden_and_foreign_files_are_not_images(root: Path) -> None:
    good = root / "nut/train/good"
    (good / "._000.png").write_text("a resource fork")
    (good / ".DS_Store").write_text("")
    (good / "notes.txt").write_text("")
    os.rename(good / "000.png", good / "000.PNG")
    nut = read_category(detect_layout(root), "nut")
    assert len(nut.train) == 6 and nut.errors == []
    assert len(nut.warnings) == 1 and "notes.txt" in nut.warnings[0]


def test_missing_category_error_lists_the_available_ones(root: Path) -> None:
    with pytest.raises(UserError, match="no category cable in .*; it has bolt, nut") as error:
        load(root, "cable", "nut")
    for words in ("mvtec.com", "CC BY-NC-SA 4.0", "VisA.tar", "CC BY 4.0", "<category>/train/good"):
        assert words in str(error.value)


def one_image(root: Path) -> None:
    for path in sorted((root / "nut/train/good").iterdir())[1:]:
        path.unlink()


def no_images(root: Path) -> None:
    shutil.rmtree(root / "nut/train/good")
    (root / "nut/train/good").mkdir()


def truncate(root: Path) -> None:
    path = root / "nut/train/good/003.png"
    path.write_bytes(path.read_bytes()[:900])


FAULTS = {
    "no folder": (lambda root: shutil.rmtree(root), "set does not exist"),
    "empty folder": (
        lambda root: [shutil.rmtree(path) for path in root.iterdir()],
        "must contain categories.*contains no folder",
    ),
    "no train": (lambda root: shutil.rmtree(root / "nut/train"), "nut must have a folder train/go"),
    "neither": (
        lambda root: [shutil.rmtree(path) for path in (root / "nut").iterdir()],
        "nut must have a folder train/good",
    ),
    "no train/good": (
        lambda root: (root / "nut/train/good").rename(root / "nut/train/fine"),
        "nut must have a folder train/good",
    ),
    "no images": (no_images, "train/good must contain images .*png.*contains none"),
    "one image": (one_image, "nut must have at least 4 normal images.*has 1"),
    "cut short": (truncate, r"train/good/003\.png cannot be used: it is truncated"),
    "text": (
        lambda root: (root / "nut/test/good/000.png").write_text("hello"),
        r"test/good/000\.png cannot be used: unsupported or corrupt image",
    ),
    "text mask": (
        lambda root: (root / "nut/ground_truth/hole/000_mask.png").write_text("hello"),
        r"hole/000_mask\.png cannot be used: unsupported or corrupt image",
    ),
    "mask of another size": (
        lambda root: write_mask(root / "nut/ground_truth/hole/000_mask.png", (24, 20)),
        r"000_mask\.png.*the mask is 20x24 pixels and its image 000\.png 24x20",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_datasets_raise(root: Path, fault: str) -> None:
    damage, words = FAULTS[fault]
    damage(root)
    with pytest.raises(UserError, match=words) as error:
        load(root)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_all_invalid_files_are_listed(root: Path) -> None:
    for number in range(12):
        write_image(root / f"nut/train/good/{number:03d}.png", number)
    for number in range(12):
        (root / f"nut/train/good/{number:03d}.png").write_text("hello")
    (root / "nut/ground_truth/hole/000_mask.png").write_text("hello")
    with pytest.raises(UserError, match="13 files cannot be used.*and 3 more") as error:
        load(root)
    assert str(error.value).count("unsupported or corrupt") == 10


def test_errors_of_several_categories_are_listed_together(root: Path) -> None:
    shutil.rmtree(root / "nut/train/good")
    shutil.rmtree(root / "bolt/train/good")
    with pytest.raises(UserError) as error:
        load(root, "bolt", "nut")
    assert "bolt must have" in str(error.value) and "nut must have" in str(error.value)


def test_parent_folder_or_file_as_root_raises(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use one of its subfolders: set"):
        load(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        load(root / "nut/train/good/000.png")


def test_visa_with_missing_or_invalid_split_file(tmp_path: Path) -> None:
    split = make_visa(tmp_path)
    text = split.read_text()
    split.write_text(text.replace("object,", "thing,"))
    with pytest.raises(UserError, match="must have the columns object, split.*line 2"):
        load(tmp_path, "candle")
    split.write_text("")
    with pytest.raises(UserError, match="it has no row"):
        load(tmp_path, "candle")
    split.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path, "candle")
    split.unlink()
    with pytest.raises(UserError, match=r"VisA \(candle\) without split_csv/1cls\.csv"):
        load(tmp_path, "candle")


def test_invalid_visa_datasets_raise(tmp_path: Path) -> None:
    make_visa(tmp_path)
    (tmp_path / "candle/Data/Masks/Anomaly/001.png").unlink()
    load(tmp_path, "candle")
    candle = read_category(detect_layout(tmp_path), "candle")
    assert "1 of 2 anomalous images has no mask" in candle.missing_mask_warnings(tmp_path)[0]
    (tmp_path / "candle/Data/Images/Normal/0000.JPG").unlink()
    with pytest.raises(UserError, match=r"0000\.JPG cannot be used: it does not exist"):
        load(tmp_path, "candle")


def test_listing() -> None:
    assert join_names(["a", "b"]) == "a, b"
    assert join_names([str(i) for i in range(13)]).endswith("9 and 3 more")
