"""Thresholds: three methods, their guarantees and how they are stored; calibrated scores."""

from __future__ import annotations

import csv
import json
import math
from copy import copy, deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import betabinom
from sklearn.metrics import f1_score, precision_recall_curve

from vqlab.cli.metric_tables import report_table, thresholds_text
from vqlab.config import merge, validate
from vqlab.data import load_dataset
from vqlab.evaluation import (
    CalibrationScores,
    Report,
    Scored,
    Thresholds,
    ThresholdSettings,
    choose_thresholds,
    guarantee_note,
)
from vqlab.metrics import summarise_images
from vqlab.model import Model
from vqlab.pixels.resizing import Geometry
from vqlab.predict import predict_files
from vqlab.run import Outcome, Recording, calibrate_and_assess, make_trainer, resolve, run
from vqlab.tracking import Tracker
from vqlab.training import seed_everything
from vqlab.types import ImageRecord, UserError

FINITE = st.floats(allow_nan=False, allow_infinity=False)
SMALL = st.floats(-1e6, 1e6)
LARGEST, SMALLEST = float(np.finfo(float).max), 5e-324

pytestmark = pytest.mark.usefixtures("blank_figures")


def scored_set(scores: Any, labels: Any, maps: Any = None, masks: Any = None) -> Scored:
    """Return a scored set without files; by default each map is constant at its score."""
    maps = maps or [np.full((2, 2), s, np.float32) for s in scores]
    masks = masks or [np.full(m.shape, bool(k)) for m, k in zip(maps, labels, strict=True)]
    records = tuple(ImageRecord(Path(f"{i}.png"), "toy", "hole" * k or "good") for i, k in
                    enumerate(labels))  # fmt: skip
    geometry = (Geometry((2, 2), (0, 0, 2, 2)),) * len(records)
    return Scored(maps, np.array(scores, float), np.array(labels), masks, records, geometry)


def settings(**values: Any) -> ThresholdSettings:
    return validate(ThresholdSettings, values, "threshold.")


def set_with_defects(seed: int, scale: float = 1.0, shift: float = 0.0) -> Scored:
    """Return 20 normal and 15 defect images whose scores overlap, per image and per pixel."""
    rng = np.random.default_rng(seed)
    labels = [0] * 20 + [1] * 15
    masks = [np.zeros((8, 8), bool) for _ in labels]
    maps = []
    for label, mask in zip(labels, masks, strict=True):
        mask[2:5, 3:6] = bool(label)
        maps.append(((rng.normal(size=(8, 8)) + 1.5 * mask) * scale + shift).astype(np.float32))
    scores = (rng.normal(size=35) + np.array(labels)) * scale + shift
    return scored_set(scores, labels, maps, masks)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=70), st.floats(0.001, 0.999))
def test_quantile_equals_numpy_higher(scores: list[int], rate: float) -> None:
    chosen = choose_thresholds(
        scored_set(scores, [0] * len(scores)), settings(method="quantile", false_reject_rate=rate)
    )
    place = (len(scores) - 1) * (1 - rate)
    if abs(place - round(place)) > 1e-6:
        assert chosen.image == np.quantile(scores, 1 - rate, method="higher")
    assert chosen.promised is not None and chosen.promised >= 1 / (len(scores) + 1)


@pytest.mark.parametrize("method", ["conformal", "quantile"])
def test_threshold_depends_on_normals_only(method: str) -> None:
    scored = set_with_defects(0)
    rates = settings(method=method, false_reject_rate=0.1, pixel_false_positive_rate=0.03)
    chosen = choose_thresholds(scored, rates)
    assert chosen == choose_thresholds(scored.normals(), rates)
    assert chosen.method == method and chosen.calibration is not None
    assert chosen.calibration.count == 20


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (1e-6, 0.0), (3.0, -1e6), (1e8, 1e9)])
@pytest.mark.parametrize("seed", range(3))
def test_f1max_threshold_is_optimal(seed: int, scale: float, shift: float) -> None:
    scored = set_with_defects(seed, scale, shift)
    chosen = choose_thresholds(scored, settings(method="f1max"))
    truth = np.stack(scored.masks).ravel()
    pixels = np.stack(scored.maps).ravel()
    for values, labels, threshold in (
        (scored.image_scores, scored.labels, chosen.image),
        (pixels, truth, chosen.pixel),
    ):
        precision, recall, _ = precision_recall_curve(labels, values)
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-9)).max()
        assert f1_score(labels, values > threshold) == pytest.approx(best)
    assert chosen.promised is None and chosen.notes == ()


def test_f1max_threshold_of_many_pixels_is_nearly_optimal() -> None:
    rng = np.random.default_rng(0)
    defective, normal = rng.normal(1.5, 1, 30_000), rng.normal(0, 1, 300_000)
    values, labels = np.concatenate([defective, normal]), np.arange(330_000) < 30_000
    cut = summarise_images(values, labels).f1max_threshold
    order = np.argsort(-values)
    hit = labels[order].cumsum()
    best = (2 * hit / (np.arange(330_000) + 1 + 30_000)).max()
    assert best - 1e-4 < f1_score(labels, values >= cut) <= best + 1e-12


def test_f1max_with_no_and_perfect_separation() -> None:
    separated = choose_thresholds(scored_set([1.0, 2.0, 4.0], [0, 0, 1]), settings(method="f1max"))
    assert separated.image == 3.0 and 2.0 <= separated.pixel < 4.0
    flat = choose_thresholds(scored_set([1.0, 1.0], [0, 1]), settings(method="f1max"))
    assert flat.image < 1.0 > flat.pixel and flat.image == pytest.approx(1.0)


def test_f1max_without_defects_raises() -> None:
    with pytest.raises(UserError, match="f1max needs defects.*got 0 defects"):
        choose_thresholds(scored_set([1.0, 2.0], [0, 0]), settings(method="f1max"))
    unmasked = scored_set([1.0, 2.0], [0, 1], masks=[np.zeros((2, 2), bool)] * 2)
    with pytest.raises(UserError, match="1 defects, none with a mask; set threshold.method=conf"):
        choose_thresholds(unmasked, settings(method="f1max"))
    with pytest.raises(UserError, match="threshold.method"):
        settings(method="best")


@pytest.mark.parametrize("method", ["conformal", "quantile"])
@pytest.mark.parametrize("count, rate", [(7, 0.05), (18, 0.05), (31, 0.05), (40, 0.2)])
def test_mean_false_reject_rate_is_within_the_target(method: str, count: int, rate: float) -> None:
    rng = np.random.default_rng(count)
    realised, notes = [], 0
    for _ in range(300):
        scores = rng.standard_cauchy(count + 50)
        normals = scored_set(scores[:count], [0] * count)
        chosen = choose_thresholds(normals, settings(method=method, false_reject_rate=rate))
        rejected = int(np.count_nonzero(scores[count:] > chosen.image))
        realised.append(rejected / 50)
        notes += guarantee_note(chosen, rejected, 50) is not None
    assert chosen.promised is not None
    error = np.std(realised) / math.sqrt(len(realised))
    assert np.mean(realised) < chosen.promised + 3 * error
    assert notes / 300 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)  # the test has the nominal level


def test_violated_guarantee_gives_a_note() -> None:
    chosen = choose_thresholds(scored_set(range(31), [0] * 31), settings())
    assert chosen.promised == 0.05 and chosen.image == 30
    counts_with_note = [rejected for rejected in range(25) if guarantee_note(chosen, rejected, 24)]
    chances = [betabinom(24, 1, 31).sf(rejected - 1) for rejected in range(25)]
    assert counts_with_note == [rejected for rejected in range(25) if chances[rejected] < 0.05]
    note = guarantee_note(chosen, 12, 24)
    assert (
        note is not None and "12 of 24" in note and "(0.500)" in note and "at most 0.05 (" in note
    )
    assert "differ from normal training images" in note
    assert guarantee_note(chosen, 0, 0) is None
    assert guarantee_note(Thresholds(1.0, 1.0), 24, 24) is None
    f1max = choose_thresholds(scored_set([1.0, 2.0], [0, 1]), settings(method="f1max"))
    assert guarantee_note(f1max, 24, 24) is None


def test_rate_within_the_target_gives_no_note() -> None:
    chosen = choose_thresholds(scored_set(range(31), [0] * 31), settings(false_reject_rate=0.06))
    assert guarantee_note(chosen, 59, 1000) is None


def of_categories(scores: dict[str, Any]) -> Scored:
    """Return normal images with these scores by category."""
    plain = scored_set(np.concatenate([*scores.values()]), [0] * sum(map(len, scores.values())))
    names = [name for name, values in scores.items() for _ in values]
    pairs = zip(plain.records, names, strict=True)
    return replace(plain, records=tuple(replace(record, category=name) for record, name in pairs))


@pytest.mark.parametrize("method", ["conformal", "quantile"])
def test_threshold_that_does_not_fit_all_categories_gives_a_note(method: str) -> None:
    rng = np.random.default_rng(1)
    three = {name: rng.normal(size=40) for name in ("bolt", "nut", "ring")}
    assert choose_thresholds(of_categories(three), settings(method=method)).notes == ()
    shifted = three | {"nut": three["nut"] + 5}
    chosen = choose_thresholds(of_categories(shifted), settings(method=method))
    (note,) = chosen.notes
    rejected = int((shifted["nut"] > chosen.image).sum())
    assert (
        f"for 3 categories rejects {rejected} of 40 held-out normal images of nut and 0 of 80"
        in note
    )
    single = {"nut": np.concatenate(list(shifted.values()))}
    assert choose_thresholds(of_categories(single), settings(method=method)).notes == ()


def test_similar_categories_rarely_give_a_note() -> None:
    rng = np.random.default_rng(2)
    count = 0
    for _ in range(200):
        scores = {name: rng.gamma(2, size=25) for name in ("bolt", "nut", "ring", "washer")}
        count += bool(choose_thresholds(of_categories(scores), settings()).notes)
    assert count / 200 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_too_few_normals_weaken_the_guarantee() -> None:
    chosen = choose_thresholds(scored_set([3.0, 9.0, 4.0], [0, 0, 0]), settings())
    assert chosen.image == 9.0 and chosen.promised == 0.25
    (note,) = chosen.notes
    assert "highest score of only 3 held-out normal images" in note
    assert "1 / (3 + 1) = 0.25 (at most 0.63 with 95 % confidence)" in note
    assert "19 images are needed for 0.05" in note


def test_note_of_a_maximum_threshold_states_the_guarantee() -> None:
    (note,) = choose_thresholds(scored_set(range(19), [0] * 19), settings()).notes
    assert "only 19 held-out" in note and "mean over such sets" in note
    assert "at most 0.15 with 95 % confidence" in note and "With at least 39 images" in note
    assert choose_thresholds(scored_set(range(38), [0] * 38), settings()).notes
    assert choose_thresholds(scored_set(range(39), [0] * 39), settings()).notes == ()
    quantile = settings(method="quantile")
    assert "only 10" in choose_thresholds(scored_set(range(10), [0] * 10), quantile).notes[0]
    assert choose_thresholds(scored_set(range(21), [0] * 21), quantile).notes == ()


def test_confidence_of_the_maximum_score() -> None:
    """For uniform scores, the share above a threshold t is 1 − t."""
    highest = np.random.default_rng(0).random((4000, 19)).max(axis=1)
    share = float(np.mean(1 - highest <= 1 - 0.05 ** (1 / 19)))
    assert share == pytest.approx(0.95, abs=4 * math.sqrt(0.05 * 0.95 / 4000))
    assert 1 - 0.05 ** (1 / 19) == pytest.approx(0.15, abs=0.005)


def test_summary_of_calibration_scores() -> None:
    few = CalibrationScores.of(np.array([4.0, 1.0, 3.0, 2.0, 5.0]))
    assert few == CalibrationScores(5, (1, 2, 3, 4, 5)) and few.quartiles == (2, 3, 4)
    scores = np.random.default_rng(0).lognormal(size=1234)
    many = CalibrationScores.of(scores)
    assert many.count == 1234 and len(many.quantiles) == 65
    assert (many.minimum, many.maximum) == (scores.min(), scores.max())
    assert many.quartiles == pytest.approx(np.quantile(scores, (0.25, 0.5, 0.75)))


def test_thresholds_round_trip_and_older_checkpoints() -> None:
    chosen = choose_thresholds(set_with_defects(1), settings())
    assert Thresholds.from_json(json.loads(json.dumps(asdict(chosen)))) == chosen
    old = Thresholds.from_json({"image": 1.5, "pixel": -2.0, "notes": ["A note."]})
    assert old == Thresholds(1.5, -2.0, ("A note.",)) and old.calibration is None
    assert old.calibrated(1.5) == 0.5 > old.calibrated(1.0) > old.calibrated(-9.0)


@given(st.lists(FINITE, min_size=1, max_size=80), FINITE, st.lists(FINITE, min_size=2, max_size=9))
@example([0.0], 2.2e-313, [4.0, 0.0])
@example([0.0], SMALLEST, [0.0, SMALLEST, 2 * SMALLEST, LARGEST, -LARGEST])
@example([-LARGEST, LARGEST, -LARGEST], LARGEST, [-LARGEST, 0.0, LARGEST])
@example([LARGEST] * 3, -LARGEST, [-LARGEST, LARGEST])
@example([0.0, SMALLEST], -LARGEST, [LARGEST, -LARGEST])
@example([LARGEST / 2 * 1.0000001, SMALLEST], 0.0, [0.0, 0.0])
def test_calibrated_score_is_monotonic_and_bounded(
    normal: list[float], threshold: float, scores: list[float]
) -> None:
    summary = CalibrationScores.of(np.array(normal))
    calibrated = Thresholds(threshold, 0.0, calibration=summary).calibrated
    values = [calibrated(score) for score in sorted(scores)]
    assert values == sorted(values) and 0 <= values[0] and values[-1] <= 1
    assert calibrated(threshold) == 0.5
    assert (summary.minimum, summary.maximum) == (min(normal), max(normal))
    if threshold > (median := summary.quartiles[1]):
        assert calibrated(median) == pytest.approx(0.05)
    for score in scores:
        if score != threshold:
            assert (calibrated(score) > 0.5) <= (score > threshold)


def test_non_finite_scores_have_a_calibrated_score() -> None:
    summary = CalibrationScores.of(np.array([1.0, 2.0]))
    calibrated = Thresholds(3.0, 0.0, calibration=summary).calibrated
    assert [calibrated(score) for score in (-math.inf, math.inf)] == [0, 1]
    assert math.isnan(calibrated(math.nan))


@pytest.mark.parametrize("shift, scale", [(0, 1), (-1e6, 3), (5e8, 1e3), (0, 1e-9)])
def test_distinct_scores_have_distinct_calibrated_scores(shift: float, scale: float) -> None:
    normal = shift + scale * np.random.default_rng(0).gamma(2, size=31)
    chosen = choose_thresholds(scored_set(normal, [0] * 31), settings())
    summary = chosen.calibration
    assert summary is not None
    assert chosen.calibrated(chosen.image) == 0.5
    assert chosen.calibrated(summary.quartiles[1]) == pytest.approx(0.05)
    steps = np.arange(300)  # steps of one scale, at both ends and in between
    far = shift + scale * np.concatenate([steps - 1e4, steps - 150, steps + 1e4 - 299])
    calibrated = [chosen.calibrated(score) for score in far]
    assert (np.diff(calibrated) > 0).all()


def test_calibrated_score_of_constant_scores() -> None:
    for method in ("conformal", "f1max"):
        flat = scored_set([3.0] * 5, [0, 0, 0, 0, 1])
        chosen = choose_thresholds(flat, settings(method=method))
        assert chosen.calibrated(2.9) < chosen.calibrated(chosen.image) == 0.5
        assert chosen.calibrated(3.1) > 0.5


def printed(table: Any) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_table_shows_target_and_realised_rates() -> None:
    report = Report({"toy": {"false_reject_rate": 0.036}}, {"false_reject_rate": 0.036})
    assert "target" not in printed(report_table("run", [("test", report)]))
    chosen = choose_thresholds(scored_set(range(1, 41), [0] * 40), settings(false_reject_rate=0.1))
    lines = printed(report_table("run", [("test", report)], chosen)).splitlines()
    assert "false rejects" in lines[2] and "0.036" in lines[4]
    assert lines[5].split()[1:4:2] == ["target", "≤"] and "0.100" in lines[5]
    text = " ".join(" ".join(lines[7:]).split())
    assert "(conformal, from 40 held-out normal images)" in text
    assert "if its score exceeds 37;" in text and "regions above 40 are marked" in text
    assert "in a rejected image" in text and "where they reach 40 % of their height;" in text
    assert "a mean false-reject rate of at most 0.1." in text
    f1max = choose_thresholds(scored_set([1.0, 2.0], [0, 1]), settings(method="f1max"))
    assert "≤" not in printed(report_table("run", [("test", report)], f1max))
    old = thresholds_text(Thresholds(1.5, -2.0))
    assert old.startswith("thresholds: an image is") and "no target false-reject rate" in old
    assert "pixels above -2 are marked" in old


@pytest.fixture(scope="module")
def outcome(small_root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run of the baseline, which takes seconds."""
    tree = {
        "data": {"root": str(small_root), "categories": ["cable"], "image_size": 32},
        "evaluation": {"resamples": 50},
        "detector": {"name": "mean_image"},
        "training": {"epochs": 0, "device": "cpu"},
    }
    return run(resolve(tree), store, Recording(results=tmp_path_factory.mktemp("results")))


def test_checkpoint_stores_the_thresholds(outcome: Outcome) -> None:
    loaded = Model.load(outcome.checkpoint, "cpu")
    assert loaded.thresholds == outcome.model.thresholds
    assert loaded.thresholds.method == "conformal" and loaded.thresholds.promised == 1 / 3
    assert loaded.thresholds.calibration is not None
    assert loaded.thresholds.calibration.count == 2


def test_predictions_contain_the_calibrated_score(outcome: Outcome, tmp_path: Path) -> None:
    root = Path(outcome.model.meta["config"]["data"]["root"])
    folder = root / "cable/test/missing_cable"
    predict_files(outcome.model, [folder], tmp_path / "out")
    with (tmp_path / "out" / "scores.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(list(folder.iterdir()))
    for row in table:
        prediction = outcome.model.score(row["file"])
        assert float(row["calibrated"]) == prediction.calibrated
        assert (
            (prediction.calibrated > 0.5) == prediction.defect == (prediction.verdict == "reject")
        )
        assert prediction.mask.any() == prediction.defect
        assert row["verdict"] == prediction.verdict
        assert float(row["score"]) == prediction.score
    assert outcome.pictures is not None
    assert {"worst.png", "score_by_defect.png"} <= {p.name for p in outcome.pictures.iterdir()}


def test_detector_is_not_fitted_to_held_out_images(small: dict[str, Any]) -> None:
    """No state of the detector depends on the images from which its threshold is chosen."""
    scoring = {"detector": {"scoring": {"normalise": "pixel"}}, "training": {"epochs": 1}}
    config = resolve(merge(small, scoring))
    splits = load_dataset(config.data)
    normals = [i for i, record in enumerate(splits.test.records) if record.label == 0]
    others = splits.test.subset(normals)
    trainer = make_trainer(config, splits, torch.device("cpu"))
    trainer.fit(lambda epoch, metrics: None)
    models = []
    for part in (splits, replace(splits, held_out=others, validation=others)):
        clone = copy(trainer)
        clone.detector = deepcopy(trainer.detector)
        seed_everything(0)
        models.append(calibrate_and_assess(config, clone, part, "")[0])
    first, second = (model.detector.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert models[0].thresholds.image != models[1].thresholds.image


def test_f1max_end_to_end(outcome: Outcome, store: Tracker) -> None:
    tree = merge(outcome.model.meta["config"], {"threshold": {"method": "f1max"}})
    other = run(resolve(tree), store, test=False)
    assert other.model.thresholds.method == "f1max"
    best = other.validation.mean["image_f1max"]
    assert best == outcome.validation.mean["image_f1max"]


@given(st.lists(st.tuples(SMALL, SMALL), min_size=3, max_size=40), SMALL)
def test_combined_scores_use_the_highest_threshold_and_p_value(
    pairs: list[tuple[float, float]], score: float
) -> None:
    """The guarantee holds under each of the shifts."""
    sets = [scored_set(scores, [0] * len(scores)) for scores in zip(*pairs, strict=True)]
    with_both = choose_thresholds(sets[0], settings(false_reject_rate=0.3), sets[1:])
    separate = [choose_thresholds(each, settings(false_reject_rate=0.3)) for each in sets]
    assert with_both.image == max(each.image for each in separate)
    assert with_both.promised == separate[0].promised
    p_values = [each.p_value(score) for each in separate]
    assert with_both.p_value(score) == max(p for p in p_values if p is not None)
