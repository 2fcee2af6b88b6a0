from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vqlab.config import validate
from vqlab.data import DataSettings, ImageSet
from vqlab.data.image_cache import ImageCache, ImageFile
from vqlab.evaluation import (
    EvaluationSettings,
    Scored,
    Thresholds,
    ThresholdSettings,
    choose_thresholds,
    evaluate,
    score_images,
)
from vqlab.features import FeatureSet
from vqlab.pixels.resizing import Geometry
from vqlab.types import ImageRecord, Scores, UserError

SIDE = 32


class Darkness:
    """A detector of dark pixels; the image score is that of the darkest pixel."""

    def __init__(self, spoil: float | None = None) -> None:
        self.spoil = spoil

    def score(self, sample):
        maps = 1 - sample.image.mean(1)
        scores = maps.flatten(1).amax(1)
        if self.spoil is not None:
            scores = torch.where(scores > 0.9, torch.tensor(self.spoil), scores)
        return Scores(maps, scores)


def photos(folder: Path, sizes=((40, 40),), defects=2, category="toy"):
    """Write white images; the first `defects` of them have a black square with an exact mask."""
    items = []
    for index in range(defects + 3):
        height, width = sizes[index % len(sizes)]
        image = np.full((height, width, 3), 255 - index, np.uint8)
        kind = "hole" if index < defects else "good"
        path = folder / category / "test" / kind / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = None
        if kind == "hole":
            square = np.zeros((height, width), np.uint8)
            square[4:12, 4:12] = 255
            image[square > 0] = 0
            mask = folder / category / "ground_truth" / kind / f"{index:03d}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(square).save(mask)
        Image.fromarray(image).save(path)
        items.append(ImageFile(ImageRecord(path, category, kind, mask)))
    return items


def image_set(items, resize="stretch") -> ImageSet:
    return ImageSet(items, ImageCache(DataSettings(image_size=SIDE, resize=resize)))


def scored_set(scores, labels, masks=None, maps=None, category="toy") -> Scored:
    """Return a scored set of 2 × 2 maps, without files; by default each map is constant at its
    score."""
    count = len(scores)
    maps = maps or [np.full((2, 2), s, np.float32) for s in scores]
    masks = masks or [np.full((2, 2), bool(label)) for label in labels]
    categories = [category] * count if isinstance(category, str) else category
    records = tuple(
        ImageRecord(Path(f"{i}.png"), c, "hole" if label else "good")
        for i, (c, label) in enumerate(zip(categories, labels, strict=True))
    )
    geometry = (Geometry((2, 2), (0, 0, 2, 2)),) * count
    return Scored(maps, np.array(scores, float), np.array(labels), masks, records, geometry)


def features(images, batch_size=16):
    return FeatureSet(images, lambda x: (x,), batch_size=batch_size)


def test_score_images_keeps_order_truth_and_geometry(tmp_path):
    images = image_set(photos(tmp_path))
    progress_calls = []
    scored = score_images(
        Darkness(), features(images, 2), progress=lambda *at: progress_calls.append(at)
    )
    assert scored.records == images.records
    assert scored.labels.tolist() == [1, 1, 0, 0, 0]
    assert progress_calls == [(2, 5), (4, 5), (5, 5)]
    assert scored.image_scores.dtype == np.float64 and scored.maps[0].dtype == np.float32
    assert scored.image_scores[:2].min() > 0.9 > 0.1 > scored.image_scores[2:].max()
    assert [m.any() for m in scored.masks] == [True, True, False, False, False]
    assert scored.maps[0][scored.masks[0]].mean() > 0.5 > scored.maps[0][~scored.masks[0]].mean()


def test_maps_beyond_the_memory_limit_are_stored_in_a_file(tmp_path, monkeypatch):
    images = image_set(photos(tmp_path, sizes=((40, 20), (10, 40), (30, 30))), resize="letterbox")
    in_memory = score_images(Darkness(), features(images, 2))
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("vqlab.evaluation.spool.IN_MEMORY", in_memory.maps[0].nbytes)
    scored = score_images(Darkness(), features(images, 2))
    assert list(folder.iterdir()) == []  # the file is unlinked
    first, *remaining = scored.maps[1:]
    assert remaining[0].ctypes.data == first.ctypes.data + first.nbytes  # a single memory map
    for values, expected in zip(scored.maps, in_memory.maps, strict=True):
        assert np.array_equal(values, expected)
    both = [evaluate(each, Thresholds(0.5, 0.5)) for each in (scored, in_memory)]
    assert both[0].mean == both[1].mean
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(UserError, match="set TMPDIR to another folder"):
        score_images(Darkness(), features(images, 2))


def test_letterboxed_maps_and_masks_are_cropped_to_the_image(tmp_path):
    images = image_set(photos(tmp_path, sizes=((40, 20), (10, 40))), resize="letterbox")
    scored = score_images(Darkness(), features(images))
    for values, mask, geometry in zip(scored.maps, scored.masks, scored.geometry, strict=True):
        assert values.shape == mask.shape == geometry.box[2:]
    assert {values.shape for values in scored.maps} == {(32, 16), (8, 32)}
    assert np.isfinite(evaluate(scored, Thresholds(0.5, 0.5)).mean["aupro"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_score_error_names_the_image(tmp_path, bad):
    images = image_set(photos(tmp_path))
    with pytest.raises(UserError, match=r"hole.000\.png must be finite"):
        score_images(Darkness(spoil=bad), features(images))


def test_non_finite_map_error_names_the_image(tmp_path):
    class Holed(Darkness):
        def score(self, sample):
            scores = super().score(sample)
            return Scores(scores.anomaly_map.log(), scores.image_score)  # −inf for white pixels

    items = photos(tmp_path)
    Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).save(items[3].record.path)
    with pytest.raises(UserError, match=r"good.003\.png must be finite"):
        score_images(Holed(), features(image_set(items[2:])))


def test_map_with_wrong_size_raises(tmp_path):
    class Coarse(Darkness):
        def score(self, sample):
            return Scores(sample.image.mean(1)[:, ::2, ::2], sample.image.mean((1, 2, 3)))

    with pytest.raises(ValueError, match=r"\(5, 32, 32\).*\(5, 16, 16\)"):
        score_images(Coarse(), features(image_set(photos(tmp_path))))


@pytest.mark.parametrize(
    "count, rate, expected",
    [(19, 0.05, 19), (39, 0.05, 38), (40, 0.05, 39), (99, 0.1, 90), (9, 0.1, 9), (1, 0.5, 1)],
)
def test_image_threshold_is_the_conformal_quantile(count, rate, expected):
    rng = np.random.default_rng(count)
    scores = rng.permutation(np.arange(1, count + 1)).astype(float)
    chosen = choose_thresholds(
        scored_set(scores, [0] * count), ThresholdSettings(false_reject_rate=rate)
    )
    assert chosen.image == expected
    assert len(chosen.notes) == (expected == count)  # the note mentions the highest score


def test_too_few_normals_use_the_maximum_with_a_note():
    chosen = choose_thresholds(scored_set([3.0, 9.0, 4.0], [0, 0, 0]), ThresholdSettings())
    assert chosen.image == 9.0
    (note,) = chosen.notes
    assert "3 held-out normal images" in note and "19 images are needed" in note and "0.25" in note
    assert evaluate(scored_set([1.0, 99.0], [0, 1]), chosen).notes == (note,)


def test_mean_false_reject_rate_is_within_the_target():
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        scores = rng.lognormal(size=150)
        chosen = choose_thresholds(scored_set(scores[:50], [0] * 50), ThresholdSettings())
        rates.append(np.mean(scores[50:] > chosen.image))
    assert 0.025 < np.mean(rates) <= 0.05


def test_pixel_threshold_has_the_configured_share_above():
    rng = np.random.default_rng(1)
    maps = [rng.integers(0, 5000, (50, 40)).astype(np.float32) for _ in range(5)]
    normals = scored_set([0.0] * 5, [0] * 5, maps=maps)
    for rate in (0.5, 0.01, 0.005, 1e-6):
        chosen = choose_thresholds(normals, ThresholdSettings(pixel_false_positive_rate=rate))
        share = np.mean(np.stack(maps) > np.float32(chosen.pixel))
        assert rate - 0.002 <= share <= rate
    flat = choose_thresholds(scored_set([1.0, 1.0], [0, 0]), ThresholdSettings())
    assert flat.pixel == 1.0 == flat.image


def test_thresholds_are_independent_of_defects():
    scores, labels = [1.0, 2.0, 500.0, 3.0], [0, 0, 1, 0]
    with_defect = choose_thresholds(scored_set(scores, labels), ThresholdSettings())
    without = choose_thresholds(scored_set([1.0, 2.0, 3.0], [0, 0, 0]), ThresholdSettings())
    assert with_defect == without
    with pytest.raises(ValueError, match="at least one"):
        choose_thresholds(scored_set([1.0], [1]), ThresholdSettings())


def test_thresholds_json_round_trip():
    thresholds = Thresholds(1.5, -2.0, ("A note.",))
    assert Thresholds(**json.loads(json.dumps(asdict(thresholds)))) == thresholds


@pytest.mark.parametrize("value", [0, 1, -0.1, "much"])
def test_invalid_rates_raise(value):
    with pytest.raises(UserError, match="threshold.false_reject_rate"):
        validate(ThresholdSettings, {"false_reject_rate": value}, "threshold.")


def test_report_of_one_category():
    masks = [np.array([[1, 1], [0, 0]], bool)] * 2 + [np.zeros((2, 2), bool)] * 3
    maps = [np.array([[5, 1], [5, 0]], np.float32)] * 2 + [np.zeros((2, 2), np.float32)] * 3
    scored = scored_set([9, 4, 5, 1, 0], [1, 1, 0, 0, 0], masks, maps)
    report = evaluate(scored, Thresholds(4.0, 2.0))
    assert report.mean == report.per_category["toy"]
    assert report.mean["false_reject_rate"] == pytest.approx(1 / 3)
    assert report.mean["escape_rate"] == 0.5  # a score equal to the threshold is not above it
    assert report.mean["pixel_iou"] == pytest.approx(2 / 6)
    assert report.mean["image_auroc"] == pytest.approx(5 / 6)
    assert set(report.curves["toy"]) == {
        "image_roc",
        "image_precision_recall",
        "pixel_roc",
        "pixel_precision_recall",
        "pro",
    }
    assert set(report.f1max_thresholds["toy"]) == {"image", "pixel"}
    assert report.notes == () and report.pooled == {}
    images = {"normal_images": 3, "anomalous_images": 2}
    assert report.keyed("test") == {f"test/{k}": v for k, v in {**report.mean, **images}.items()}


def test_report_of_several_categories():
    # In each category defects score above normals, but on different scales.
    scored = scored_set([1, 2, 11, 12], [0, 1, 0, 1], category=["nut", "nut", "bolt", "bolt"])
    report = evaluate(scored, Thresholds(1.5, 1.5))
    assert list(report.per_category) == ["bolt", "nut"]
    keyed = report.keyed("validation")
    assert keyed["validation/image_auroc"] == keyed["validation/nut/image_auroc"] == 1
    assert keyed["validation/pooled/image_auroc"] == 0.75
    assert keyed["validation/bolt/false_reject_rate"] == 1
    assert keyed["validation/false_reject_rate"] == 0.5
    assert keyed["validation/nut/normal_images"] == 1
    assert keyed["validation/pooled/normal_images"] == 2
    assert "validation/normal_images" not in keyed  # a mean of rates has no image count


def test_undefined_metrics_are_absent_with_a_note():
    category = ["all_good"] * 2 + ["all_bad"] * 2 + ["unmasked"] * 2 + ["half"] * 3
    labels = [0, 0, 1, 1, 0, 1, 0, 1, 1]
    empty, full = np.zeros((2, 2), bool), np.eye(2, dtype=bool)
    masks = [empty, empty, full, full, empty, empty, empty, full, empty]
    scored = scored_set(range(9), labels, masks, category=category)
    report = evaluate(scored, Thresholds(0.5, 0.5))
    metrics = report.per_category
    assert set(metrics["all_good"]) == {"false_reject_rate"}
    assert "image_auroc" not in metrics["all_bad"] and "escape_rate" in metrics["all_bad"]
    assert "pixel_auroc" in metrics["all_bad"]
    assert "image_auroc" in metrics["unmasked"] and "pixel_auroc" not in metrics["unmasked"]
    assert "pixel_iou" not in metrics["unmasked"]
    assert {"pixel_iou", "aupro", "image_auroc"} <= set(metrics["half"])
    notes = "\n".join(report.notes)
    assert "all_good has no anomalous images" in notes
    assert "all_bad has no normal images" in notes
    assert "unmasked: 1 of 1 defect images have no mask; pixel metrics (AUROC" in notes
    assert "half: 1 of 2 defect images have no mask; pixel metrics exclude it" in notes
    assert "The mean image_auroc excludes all_bad, all_good" in notes
    assert all(np.isfinite(value) for value in report.keyed("test").values())
    assert not any(value == 0 for key, value in report.keyed("test").items() if "auroc" in key)
    partly = replace(scored, inspected=[np.ones((2, 2), bool)] * 9)
    sentence = "half: 1 of 2 defect images have no mask within the inspected area; pixel metrics"
    assert sentence in "\n".join(evaluate(partly, Thresholds(0.5, 0.5)).notes)


def test_perfect_metrics_of_few_images_have_no_zero_width_interval():
    masks = [np.eye(2, dtype=bool)] * 3 + [np.zeros((2, 2), bool)] * 3
    report = evaluate(
        scored_set([7, 8, 9, 1, 2, 3], [1] * 3 + [0] * 3, masks),
        Thresholds(5.0, 5.0),
        EvaluationSettings(resamples=200),
    )
    assert report.mean["image_auroc"] == 1 and report.mean["escape_rate"] == 0
    for intervals in (report.intervals["toy"], report.intervals["mean"]):
        assert set(intervals) == {
            "false_reject_rate", "escape_rate", "image_recall", "image_precision"
        }  # fmt: skip
        assert intervals["escape_rate"] == pytest.approx((0, 0.708), abs=1e-3)
        assert intervals["image_recall"] == pytest.approx((0.292, 1), abs=1e-3)
    keyed = report.keyed("test")
    assert "test/image_auroc_low" not in keyed and keyed["test/normal_images"] == 3
    notes = "\n".join(report.notes)
    assert "toy has no 95 % interval for image AUROC, image AP, image F1max" in notes
    assert "at least 5 normal and 5 anomalous images; got 3 and 3." in notes
    assert "3 normal and 3 anomalous images does not exclude a true image AUROC of 0.29" in notes


def test_perfect_metric_of_many_images_has_a_note_instead_of_an_interval():
    report = evaluate(
        scored_set(range(40), [0] * 20 + [1] * 20),
        Thresholds(19.5, 5.0),
        EvaluationSettings(resamples=100),
    )
    assert "image_auroc" not in report.intervals["mean"]
    notes = "\n".join(report.notes)
    assert "AUPRO: every resample gives the same value." in notes
    assert "does not exclude a true image AUROC of 0.83" in notes


def test_mean_over_categories_has_an_interval_if_each_has_enough_images():
    rng = np.random.default_rng(0)
    labels = [0, 1] * 20
    scores = rng.normal(size=40) + np.array(labels)
    settings = EvaluationSettings(resamples=100)
    category = ["bolt"] * 20 + ["nut"] * 20
    report = evaluate(scored_set(scores, labels, category=category), Thresholds(0.5, 1), settings)
    assert report.intervals["mean"]["image_auroc"].low < report.mean["image_auroc"]
    assert {"escape_rate", "image_precision"} <= set(report.intervals["mean"])
    category = ["bolt"] * 34 + ["nut"] * 6
    report = evaluate(scored_set(scores, labels, category=category), Thresholds(0.5, 1), settings)
    assert "image_auroc" not in report.intervals["mean"]
    assert "image_auroc" in report.intervals["bolt"]
    notes = "\n".join(report.notes)
    assert "The mean over categories has no 95 % interval for image AUROC" in notes
