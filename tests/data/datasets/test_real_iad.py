"""Real-IAD: JSON files list the images of each split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stand_ins import make_real_iad

from vqlab.data import DataSettings, categories_in, check_dataset, load_dataset
from vqlab.data.datasets import DATASETS, Counts
from vqlab.data.layouts import detect_layout, read_category
from vqlab.types import UserError

LIST = "realiad_jsons/audiojack.json"


def test_lists_select_the_images(tmp_path: Path) -> None:
    root = make_real_iad(tmp_path)
    layout = detect_layout(root)
    assert layout.source == "Real-IAD layout" and categories_in(root) == ["audiojack"]
    category = read_category(layout, "audiojack")
    assert category.errors == [] and category.warnings == [] and len(category.train) == 10
    assert [(r.defect, r.mask is not None) for r in category.test] == [
        ("AK", True), *[("good", False)] * 5,
    ]  # fmt: skip
    splits = load_dataset(DataSettings(root=root, categories="audiojack", image_size=32))
    assert splits.test.batch([0]).masks.any()
    top = read_category(detect_layout(root / "realiad_jsons_sv"), "audiojack")
    assert (len(top.train), len(top.test)) == (5, 3)
    assert all("_C1" in record.path.name for record in top.records)


def test_image_folder_selects_resolution_and_category(tmp_path: Path) -> None:
    root = make_real_iad(tmp_path)
    (root / "realiad_1024").rename(root / "realiad_256")
    assert categories_in(root / "realiad_256") == ["audiojack"]
    settings = DataSettings(root=root / "realiad_256/audiojack", image_size=32)
    splits = load_dataset(settings)
    assert splits.categories == ("audiojack",)
    by_name = load_dataset(DataSettings(root=root, categories="audiojack", image_size=32))
    assert splits.fingerprint == by_name.fingerprint


def test_lists_in_a_folder_of_their_name(tmp_path: Path) -> None:
    """This is the layout of the extracted archive of lists."""
    root = make_real_iad(tmp_path)
    (root / "realiad_jsons").rename(root / "moved")
    (root / "realiad_jsons").mkdir()
    (root / "moved").rename(root / "realiad_jsons/realiad_jsons")
    assert len(read_category(detect_layout(root), "audiojack").train) == 10


def test_noisy_training_set_gives_a_warning(tmp_path: Path) -> None:
    layout = detect_layout(make_real_iad(tmp_path) / "realiad_jsons_fuiad_0.1")
    category = read_category(layout, "audiojack")
    assert len(category.train) == 11 and not any(r.label for r in category.train)
    assert "1 of 11 training images are anomalous but used as normal" in category.warnings[0]


def test_check_compares_the_totals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_real_iad(tmp_path)
    report = check_dataset(root)
    assert not report.errors and report.warnings == [] and report.rows[0].counts == Counts(10, 5, 1)
    dataset = next(each for each in DATASETS if each.name == "Real-IAD")
    monkeypatch.setattr(type(dataset), "categories", 1)
    [warning] = check_dataset(root).warnings
    assert "10 / 5 / 1 images" in warning and "36465 / 63256 / 51329 or 10408" in warning


def change(root: Path, **changes: Any) -> None:
    tree = json.loads((root / LIST).read_text())
    tree["test"][0] |= changes
    (root / LIST).write_text(json.dumps(tree))


FAULTS = {
    "no JSON": (lambda root: (root / LIST).write_text("{"), "audiojack.json must be JSON"),
    "no split": (
        lambda root: (root / LIST).write_text('{"meta": {}, "train": []}'),
        "must have meta, train and test",
    ),
    "outside": (
        lambda root: change(root, image_path="../../../etc/passwd"),
        "must list images with .*; entry 1 is .*passwd",
    ),
    "absolute": (lambda root: change(root, image_path="/etc/passwd"), "entry 1 is"),
    "no path": (lambda root: change(root, image_path=None), "entry 1 is"),
    "missing": (
        lambda root: next(root.glob("realiad_1024/*/OK/*/*.jpg")).unlink(),
        "1 of 16 images listed in .*audiojack.json are missing, e.g. .*extract the archive",
    ),
    "no images": (
        lambda root: (root / "realiad_1024").rename(root / "elsewhere"),
        "has no realiad_1024 or realiad_raw; extract the archive of the images",
    ),
    "no lists": (
        lambda root: (root / LIST).unlink(),
        "has no realiad_jsons/<category>.json; extract the archive of the lists",
    ),
    "another category": (
        lambda root: (root / LIST).rename(root / "realiad_jsons/toy.json"),
        "has no folder with the name of a list",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_datasets_raise(tmp_path: Path, fault: str) -> None:
    root = make_real_iad(tmp_path)
    damage, words = FAULTS[fault]
    damage(root)
    with pytest.raises(UserError, match=words) as error:
        load_dataset(DataSettings(root=root, categories="audiojack", image_size=32))
    assert "\n" not in str(error.value)
