"""Datasets without masks or defects, pairs of folders, and folder names other than those of MVTec
AD."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from folders import make_category, write_image, write_mask

from vqlab.data import DataSettings, check_dataset, find_layout, load_dataset
from vqlab.data.category import Category
from vqlab.data.folder_names import ambiguous_names
from vqlab.data.layouts import detect_layout, read_category
from vqlab.data.splits import Splits
from vqlab.types import UserError


def load(root: Path, category: str = "nut") -> Splits:
    return load_dataset(DataSettings(root=root, categories=category, image_size=32))


def read(root: Path, category: str = "nut") -> Category:
    return read_category(detect_layout(root), category)


def fill(folder: Path, count: int, seed: int = 0) -> Path:
    for number in range(count):
        write_image(folder / f"{number:03d}.png", seed + number)
    return folder


def files(splits: Splits, name: str) -> set[tuple[str, str]]:
    return {(s.path.name, s.defect) for s in getattr(splits, name).records}


def test_no_masks(root: Path) -> None:
    shutil.rmtree(root / "nut/ground_truth")
    splits = load(root)
    assert [(s.label, s.mask) for s in splits.test.records] == [(0, None)] * 2 + [(1, None)] * 2
    report = check_dataset(root)
    assert not report.errors and report.fingerprint
    assert report.warnings == [
        "category nut: no anomalous image has a mask (expected at "
        "ground_truth/<defect>/<name>_mask.png), so there are no pixel metrics."
    ]


@pytest.mark.parametrize("gone", ["test", "test/hole", "test/good"])
def test_no_defects_no_normals_or_no_test(root: Path, gone: str) -> None:
    complete = load(root)
    shutil.rmtree(root / "nut" / gone)
    splits = load(root)
    assert files(splits, "train") == files(complete, "train")
    assert {s.defect for s in splits.test.records} == {
        "test": set(), "test/hole": {"good"}, "test/good": {"hole"},
    }[gone]  # fmt: skip
    assert any(record.label for record in splits.validation.records)
    notes = " ".join(splits.notes)
    assert ("nut has no test images" in notes) == (gone == "test")


@pytest.mark.parametrize(
    ("train", "good", "bad"),
    [("train/OK", "test/OK", "test/NG"), ("Train/Good", "Test/Good", "Test/Bad"),
     ("train/normal", "test/normal", "test/anomaly"), ("TRAIN/ok", "TEST/n.i.O", "TEST/ok"),
     ("training/defect-free", "testing/Defect_Free", "testing/scratch")],
)  # fmt: skip
def test_folder_names_of_normal_images(root: Path, train: str, good: str, bad: str) -> None:
    """Case and punctuation are ignored; masks are found under different spellings, too."""
    nut = root / "nut"
    if train == "TRAIN/ok":
        good, bad = bad, good
    for old, new in (("train/good", train), ("test/good", good), ("test/hole", bad)):
        (nut / new).parent.mkdir(exist_ok=True)
        (nut / old).rename(nut / new)
    (nut / "ground_truth/hole").rename(nut / "ground_truth" / Path(bad).name.upper())
    (nut / "ground_truth").rename(nut / "GroundTruth")
    for empty in ("train", "test"):
        if (nut / empty).is_dir() and not any((nut / empty).iterdir()):
            (nut / empty).rmdir()
    category = read(root)
    assert category.errors == [] and len(category.train) == 6
    assert sorted((s.label, s.mask is not None) for s in category.test) == [
        (0, False), (0, False), (1, True), (1, True),
    ]  # fmt: skip
    assert {s.defect for s in category.test} == {"good", Path(bad).name}


@pytest.mark.parametrize("folder", ["train", "test"])
def test_two_folders_of_normal_images_raise(root: Path, folder: str) -> None:
    write_image(root / "nut" / folder / "OK/000.png", 900)
    with pytest.raises(
        UserError, match=f"nut/{folder} must have only one such folder.*OK and good.*merge them"
    ):
        load(root)


def test_unknown_folder_name_error_suggests_names(root: Path) -> None:
    (root / "nut/train/good").rename(root / "nut/train/fine")
    with pytest.raises(UserError, match=r"none but fine; rename the folder .* to good \(OK"):
        load(root)


@pytest.mark.parametrize("names", [("positive", "negative"), ("0", "1")])
def test_two_folders_with_unknown_names_raise(root: Path, names: tuple[str, str]) -> None:
    (root / "nut/test/good").rename(root / "nut/test" / names[0])
    (root / "nut/test/hole").rename(root / "nut/test" / names[1])
    with pytest.raises(UserError, match="must say whether its images are normal or anomalous"):
        load(root)
    assert ambiguous_names(["good", "0", "1"]) == [] and ambiguous_names(["1", "2", "3"]) == []


def test_images_directly_in_train_are_normal_and_those_in_test_unused(root: Path) -> None:
    for path in (root / "nut/train/good").iterdir():
        path.rename(root / "nut/train" / path.name)
    (root / "nut/train/good").rmdir()
    fill(root / "nut/test", 3, 700)
    category = read(root)
    assert category.errors == [] and (len(category.train), len(category.test)) == (6, 4)
    assert "3 images directly in this folder are not used" in category.warnings[0]


def test_category_of_two_folders(tmp_path: Path) -> None:
    """OK and NG: a fifth of the normal images is used for testing, independent of the seed."""
    fill(tmp_path / "parts/pen/OK", 20)
    fill(tmp_path / "parts/pen/NG", 3, 100)
    fill(tmp_path / "parts/pen/raw", 1, 300)
    write_mask(tmp_path / "parts/pen/masks/NG/001.png")
    splits = load(tmp_path / "parts", "pen")
    assert splits.source == "folders of good and bad images"
    assert len(splits.train) + len(splits.held_out) == 16
    assert [s.defect for s in splits.test.records] == ["NG"] * 3 + ["good"] * 4
    assert [s.mask is not None for s in splits.test.records[:3]] == [False, True, False]
    trained = files(splits, "train") | files(splits, "held_out")
    assert not trained & files(splits, "test")
    settings = DataSettings(root=tmp_path / "parts/pen", seed=5, image_size=32)
    assert files(load_dataset(settings), "test") == files(splits, "test")
    notes = " ".join(splits.notes)
    assert "4 of 20 normal images" in notes and "skipped raw" in notes


def test_flat_folders(tmp_path: Path) -> None:
    good, bad = fill(tmp_path / "line 1/fine", 10), fill(tmp_path / "NG", 2, 100)
    fill(bad / "scratch", 2, 200)
    good_only = load_dataset(DataSettings(good=good, image_size=32))
    assert good_only.categories == ("fine",) and len(good_only.test) == 0
    assert good_only.source == "folder of good images"
    assert len(good_only.train) + len(good_only.held_out) == 10
    both = load_dataset(DataSettings(good=good, bad=bad, categories="pen", image_size=32))
    assert both.categories == ("pen",) and both.source == "folders of good and bad images"
    assert [s.defect for s in both.test.records] == ["NG"] * 2 + ["good"] * 2 + ["scratch"] * 2
    moved = tmp_path / "elsewhere"
    shutil.copytree(good, moved / "good")
    shutil.copytree(bad, moved / "good/bad")
    moved_settings = DataSettings(good=moved / "good", bad=moved / "good/bad", image_size=32)
    assert load_dataset(moved_settings).fingerprint == both.fingerprint
    report = check_dataset(find_layout(moved_settings))
    assert not report.errors and report.fingerprint == both.fingerprint
    assert report.rows[0].counts == (8, 2, 4)


def test_few_normal_images_are_all_used_for_training(tmp_path: Path) -> None:
    good, bad = fill(tmp_path / "good", 4), fill(tmp_path / "bad", 1, 100)
    splits = load_dataset(DataSettings(good=good, bad=bad, image_size=32))
    assert [s.label for s in splits.test.records] == [1]
    assert "false reject rate on test cannot be measured" in " ".join(splits.notes)


def invalid_settings(tmp_path: Path) -> dict[str, tuple[dict[str, object], str]]:
    good, bad = fill(tmp_path / "good", 6), fill(tmp_path / "bad", 2, 100)
    fill(tmp_path / "mixed/OK", 1, 200)
    fill(tmp_path / "pen/train/OK", 1, 300)
    (tmp_path / "empty").mkdir()
    return {
        "both": ({"good": good, "root": tmp_path}, "--data.*or a folder of normal.*remove one"),
        "bad alone": ({"bad": bad}, "must be used with a folder of normal images"),
        "nowhere": ({"good": tmp_path / "none"}, "none is not a folder"),
        "no bad": ({"good": good, "bad": tmp_path / "none"}, "data.bad must be a folder"),
        "empty": ({"good": good, "bad": tmp_path / "empty"}, "empty must contain images"),
        "the same": ({"good": good, "bad": good}, "must be two folders"),
        "good in bad": ({"good": good, "bad": tmp_path / "mixed"}, "it contains the folder OK"),
        "a layout": ({"good": tmp_path / "pen"}, "--data .*pen or --good .*pen/train/OK"),
        "two": ({"good": good, "categories": "a,b"}, "one category; got a, b"),
        "all": ({"good": good, "categories": "all"}, "one category; got all"),
    }


@pytest.mark.parametrize(
    "case",
    "both,bad alone,nowhere,no bad,empty,the same,good in bad,a layout,two,all".split(","),
)
def test_invalid_flat_folders_raise(tmp_path: Path, case: str) -> None:
    settings, words = invalid_settings(tmp_path)[case]
    with pytest.raises(UserError, match=words) as error:
        load_dataset(DataSettings.model_validate({**settings, "image_size": 32}))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_error_for_a_folder_of_images_suggests_options(tmp_path: Path) -> None:
    fill(tmp_path / "flat", 3)
    with pytest.raises(UserError, match=r"contains images itself; .* --good .*flat"):
        detect_layout(tmp_path / "flat")
    with pytest.raises(UserError, match=r"contains folders of images \(flat\).*--good .*--bad"):
        detect_layout(tmp_path)


def test_defects_in_kinds_below_one_folder(root: Path) -> None:
    (root / "nut/test/NG").mkdir()
    (root / "nut/test/hole").rename(root / "nut/test/NG/hole")
    category = read(root)
    assert {s.defect for s in category.test} == {"good", "hole"}
    assert all(s.mask is not None for s in category.test if s.label)


def test_validation_on_test_defects_requires_defects(root: Path) -> None:
    shutil.rmtree(root / "nut/test")
    tree = {"root": root, "categories": "nut", "image_size": 32, "validation": {"source": "test"}}
    with pytest.raises(UserError, match="at least 2 test images.*validation.source=drawn"):
        load_dataset(DataSettings.model_validate(tree))


def test_pixel_metrics_of_validation_require_masks(root: Path) -> None:
    tree = {"root": root, "categories": "nut", "image_size": 32, "validation": {"source": "test"}}
    load_dataset(DataSettings.model_validate(tree)).require_defined("validation/pixel_auroc")
    shutil.rmtree(root / "nut/ground_truth")
    load(root).require_defined("validation/aupro")  # synthetic anomalies have masks
    splits = load_dataset(DataSettings.model_validate(tree))
    splits.require_defined("validation/image_auroc")
    with pytest.raises(UserError, match="validation/aupro requires masks.*=drawn"):
        splits.require_defined("validation/aupro")


def test_category_names_all_and_mean_are_reserved(root: Path) -> None:
    (root / "bolt").rename(root / "mean")
    load(root, "mean")
    with pytest.raises(UserError, match="category mean must be trained alone"):
        load_dataset(DataSettings(root=root, categories="all", joint=True, image_size=32))
    (root / "nut").rename(root / "all")
    with pytest.raises(UserError, match="must not be called all.*rename the folder"):
        load_dataset(DataSettings(root=root / "all", image_size=32))
    with pytest.raises(UserError, match="must not be called all.*--category"):
        load_dataset(DataSettings(good=fill(root / "other/all", 5), image_size=32))
    assert check_dataset(root).errors


def test_fingerprint_is_unchanged(root: Path, tmp_path: Path) -> None:
    """Results of earlier versions remain comparable: the layout of MVTec AD is read as before."""
    make_category(tmp_path / "copy", "nut")
    assert load(tmp_path / "copy").fingerprint == load(root).fingerprint


def test_good_images_of_a_validation_folder_are_held_out(root: Path) -> None:
    without_folder = load(root)
    train = {name for name, _ in files(without_folder, "train") | files(without_folder, "held_out")}
    fill(root / "nut/validation/good", 3, seed=500)
    splits = load(root)
    assert {name for name, _ in files(splits, "train")} == train
    assert {s.path.parent.parent.name for s in splits.held_out.records} == {"validation"}
    assert len(splits.held_out) == 3 and files(splits, "test") == files(without_folder, "test")
    assert splits.fingerprint != without_folder.fingerprint
    assert check_dataset(root).warnings == []


def test_validation_folder_requires_two_images(root: Path) -> None:
    fill(root / "nut/validation/good", 1, seed=500)
    with pytest.raises(UserError, match="at least 2 images in validation/good; .* has 1; add some"):
        load(root)


def test_copy_of_a_held_out_image_in_test_is_reported(root: Path) -> None:
    fill(root / "nut/validation/good", 2, seed=500)
    shutil.copy(root / "nut/test/good/000.png", root / "nut/validation/good/copy.png")
    [warning] = check_dataset(root).warnings
    assert "1 test image is also in train (validation/good/copy.png = test/good/000.png)" in warning
