"""MVTec LOCO AD: several masks per image, each with a saturation area."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stand_ins import LOCO_DEFECTS, make_mvtec_loco, write_defect

from vqlab.data import DataSettings, check_dataset, load_dataset, resize_map
from vqlab.data.datasets import saturated_defects
from vqlab.data.layouts import detect_layout, read_category
from vqlab.evaluation import EvaluationSettings, Scored, Thresholds, evaluate
from vqlab.types import UserError


def test_ground_truth_is_the_union_of_the_masks(tmp_path: Path) -> None:
    folder = make_mvtec_loco(tmp_path)
    layout = detect_layout(tmp_path)
    assert layout.source == "MVTec LOCO AD layout"
    category = read_category(layout, "pushpins")
    assert category.errors == [] and category.warnings == []
    assert [record.defect for record in category.test] == [
        "good", "good", "logical_anomalies", "structural_anomalies",
    ]  # fmt: skip
    splits = load_dataset(DataSettings(root=folder, image_size=32))
    assert len(splits.held_out) == 3
    union = np.zeros((20, 24), bool)
    union[2:12, 2:12] = union[10:14, 10:14] = True
    np.testing.assert_array_equal(splits.test.original_mask(2), union)
    assert not splits.test.original_mask(0).any()


def test_saturation_areas(tmp_path: Path) -> None:
    """30 of 100 pixels of the missing part are sufficient; a scratch must be marked completely."""
    folder = make_mvtec_loco(tmp_path)
    first, second = saturated_defects(folder / "ground_truth/logical_anomalies/000")
    assert (int(first.mask.sum()), first.saturation) == (100, 0.3)
    assert (int(second.mask.sum()), second.saturation) == (16, 1.0)
    (folder / "defects_config.json").write_text(
        json.dumps([{**LOCO_DEFECTS[0], "saturation_threshold": 500}, LOCO_DEFECTS[1]])
    )
    first, _ = saturated_defects(folder / "ground_truth/logical_anomalies/000")
    assert first.saturation == 1.0  # at most the area of the mask


@pytest.mark.parametrize("resolution", ["network", "original"])
def test_report_has_spro(tmp_path: Path, resolution: str) -> None:
    """A map that marks the first half of the rows of each mask reaches the saturation area of the
    missing part (30 of 100 pixels), but not of the scratches."""
    folder = make_mvtec_loco(tmp_path)
    splits = load_dataset(DataSettings(root=folder, image_size=40))
    images = splits.test
    batch = images.batch(range(len(images)))
    maps = []
    for index in range(len(images)):
        half = np.zeros((20, 24), bool)
        for defect in images.saturated(index):
            rows = np.flatnonzero(defect.mask.any(axis=1))
            half[rows[0] : rows[len(rows) // 2]] |= defect.mask[rows[0] : rows[len(rows) // 2]]
        maps.append(resize_map(half.astype(np.float32), (40, 40)))
    scored = Scored(
        maps,
        np.arange(4.0),
        batch.labels.numpy(),
        list(batch.masks.numpy()),
        batch.records,
        batch.geometry,
    )
    settings = EvaluationSettings.model_validate({"resolution": resolution, "resamples": 0})
    report = evaluate(scored, Thresholds(0.0, 0.0), settings, images)
    assert 0.6 < report.mean["spro_005"] < 0.95
    assert report.mean["spro_005"] > report.mean["aupro_005"]
    assert "spro_005" not in evaluate(scored, Thresholds(0.0, 0.0), settings).mean


def test_fingerprint_depends_on_the_masks(tmp_path: Path) -> None:
    folder = make_mvtec_loco(tmp_path)
    settings = DataSettings(root=folder, image_size=32)
    before = load_dataset(settings).fingerprint
    write_defect(folder / "ground_truth/logical_anomalies/000/001.png", np.s_[10:15, 10:14], 254)
    assert load_dataset(settings).fingerprint != before


def test_check(tmp_path: Path) -> None:
    folder = make_mvtec_loco(tmp_path)
    report = check_dataset(tmp_path)
    assert not report.errors and report.rows[0].masks == 2
    assert report.rows[0].published == "MVTec LOCO AD has 441 / 138 / 172"
    shutil.rmtree(folder / "ground_truth/structural_anomalies/000")
    write_defect(folder / "ground_truth/logical_anomalies/007/000.png", np.s_[1:3, 1:3], 255)
    text = " ".join(check_dataset(tmp_path).warnings)
    assert "1 of 2 anomalous images has no mask, expected at ground_truth/<defect>/<name>/000" in (
        text
    )
    assert "masks without an image: logical_anomalies/007" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "defects_config.json must be JSON"),
        ("[]", "must list defects as"),
        ('[{"pixel_value": 255}]', "must list defects as .* restore the file"),
        ("[1]", "must list defects as"),
    ],
)
def test_invalid_configuration_raises(tmp_path: Path, content: str, message: str) -> None:
    folder = make_mvtec_loco(tmp_path)
    (folder / "defects_config.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_dataset(DataSettings(root=folder, image_size=32))
    assert "\n" not in str(error.value)


def test_value_without_a_saturation_area_raises(tmp_path: Path) -> None:
    folder = make_mvtec_loco(tmp_path)
    masks = folder / "ground_truth/structural_anomalies/000"
    write_defect(masks / "000.png", np.s_[5:9, 4:8], 17)
    with pytest.raises(UserError, match=r"000\.png cannot be used: its values above 0 are 17"):
        list(saturated_defects(masks))
    write_defect(masks / "001.png", np.s_[5:9, 4:8], 254)
    (masks / "002.png").write_text("hello")
    assert "002.png: unsupported or corrupt image" in " ".join(check_dataset(folder).errors)
