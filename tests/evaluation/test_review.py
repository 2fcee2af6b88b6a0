"""Three verdicts: conformal p-values at two levels, and the expected share of each verdict."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqlab.config import validate
from vqlab.evaluation import (
    PASS,
    REJECT,
    REVIEW,
    CalibrationScores,
    EvaluationSettings,
    Scored,
    Thresholds,
    ThresholdSettings,
    choose_thresholds,
    evaluate,
    expected_shares,
    guarantee_note,
    load_evidence,
    paired_differences,
    review_sentence,
    save_evidence,
)
from vqlab.pixels.resizing import Geometry
from vqlab.types import ImageRecord, UserError

SCORES = st.lists(st.integers(0, 40), min_size=1, max_size=150)


def scored_set(scores: Any, labels: Any = None) -> Scored:
    """Return a scored set without files; each map is constant at its score."""
    labels = np.zeros(len(scores), int) if labels is None else np.array(labels)
    maps = [np.full((2, 2), s, np.float32) for s in scores]
    masks = [np.full((2, 2), bool(label)) for label in labels]
    records = tuple(
        ImageRecord(Path(f"{i}.png"), "toy", "hole" * k or "good") for i, k in enumerate(labels)
    )
    geometry = (Geometry((2, 2), (0, 0, 2, 2)),) * len(records)
    return Scored(maps, np.array(scores, float), labels, masks, records, geometry)


def settings(**values: Any) -> ThresholdSettings:
    return validate(ThresholdSettings, values, "threshold.")


@given(SCORES, st.floats(-1, 41))
def test_p_values_are_ranks_of_the_calibration_scores(scores: list[int], score: float) -> None:
    summary = CalibrationScores.of(np.array(scores, float))
    expected = (1 + sum(s >= score for s in scores)) / (len(scores) + 1)
    assert summary.exact and summary.p_value(score) == expected
    stored = CalibrationScores(**json.loads(json.dumps(asdict(summary))))
    assert stored == summary and stored.p_value(score) == expected


@given(st.lists(st.floats(0, 1), min_size=66, max_size=300), st.floats(0, 1))
def test_p_values_of_older_checkpoints_are_upper_bounds(scores: list[float], score: float) -> None:
    summary = CalibrationScores.of(np.array(scores))
    old = CalibrationScores(summary.count, summary.quantiles)
    exact = summary.p_value(score)
    assert not old.exact and exact <= old.p_value(score) + 1e-12
    assert old.p_value(score) <= exact + 2 / 64 or len(set(scores)) < len(scores)
    assert old.p_value(2.0) == summary.p_value(2.0) == 1 / (len(scores) + 1)


def test_p_value_requires_calibration_scores() -> None:
    assert Thresholds(1.0, 1.0).p_value(0.5) is None
    assert math.isnan(CalibrationScores.of(np.arange(9.0)).p_value(math.nan))


@given(SCORES, st.floats(0.02, 0.4), st.floats(0.02, 0.4), st.integers(0, 41))
def test_verdicts_compare_p_values_with_two_levels(
    scores: list[int], reject: float, review: float, score: int
) -> None:
    rates = settings(false_reject_rate=reject, review_rate=review)
    chosen = choose_thresholds(scored_set(scores), rates)
    assert chosen.review is not None and chosen.review <= chosen.image
    p = chosen.p_value(score)
    assert p is not None
    if len(scores) + 1 >= 1 / reject:
        verdict = REJECT if p <= reject + 1e-9 else REVIEW if p <= reject + review + 1e-9 else PASS
        assert chosen.verdict(score) == verdict
    if chosen.review == chosen.image:
        assert any("No image can be in review" in note for note in chosen.notes)
    else:
        assert not any("No image can be in review" in note for note in chosen.notes)


def test_without_a_review_rate_there_are_two_verdicts() -> None:
    plain = choose_thresholds(scored_set(range(40)), settings())
    assert plain.review is None is plain.promised_review is review_sentence(plain)
    assert expected_shares(plain) is None
    three = choose_thresholds(scored_set(range(40)), settings(review_rate=0.2))
    assert (three.image, three.pixel, three.promised) == (plain.image, plain.pixel, plain.promised)
    assert {plain.verdict(s) for s in range(50)} == {PASS, REJECT}
    assert Thresholds.from_json(json.loads(json.dumps(asdict(three)))) == three


def test_description_states_shares_and_guarantee() -> None:
    chosen = choose_thresholds(
        scored_set(range(99)), settings(false_reject_rate=0.02, review_rate=0.1)
    )
    shares = expected_shares(chosen)
    assert shares is not None and (shares.review, shares.reject) == pytest.approx((0.1, 0.02))
    assert review_sentence(chosen) == (
        "Of 100 normal images, 10 are expected in review and 2 rejected; at most 12 in both "
        "together are guaranteed, on average over draws of 99 held-out images, if new images "
        "resemble these."
    )


@pytest.mark.parametrize("method", ["conformal", "quantile"])
@pytest.mark.parametrize("count", [25, 70])
def test_expected_shares_hold_on_average(method: str, count: int) -> None:
    rng = np.random.default_rng(count)
    rates = settings(method=method, false_reject_rate=0.05, review_rate=0.15)
    shares, expected, promised = [], None, 0.0
    for _ in range(400):
        scores = rng.standard_cauchy(count + 50)
        chosen = choose_thresholds(scored_set(scores[:count]), rates)
        verdicts = Counter(map(chosen.verdict, scores[count:]))
        shares.append((verdicts[REVIEW] / 50, verdicts[REJECT] / 50))
        expected, promised = expected_shares(chosen), chosen.promised_review or 0
    assert expected is not None
    error = np.std(shares, axis=0) / math.sqrt(len(shares))
    difference = np.mean(shares, axis=0) - (expected.review, expected.reject)
    assert (np.abs(difference) < 4 * error).all()
    assert expected.review + expected.reject <= promised + 1e-9


def test_too_few_images_for_review_give_a_note() -> None:
    chosen = choose_thresholds(scored_set(range(12)), settings(review_rate=0.02))
    assert chosen.review == chosen.image
    note = chosen.notes[-1]
    assert "12 held-out normal images; 49 are needed for threshold.review_rate 0.02" in note
    equal = choose_thresholds(scored_set([1.0] * 60), settings(review_rate=0.1))
    assert "their scores at both levels are equal" in equal.notes[-1]
    enough = choose_thresholds(scored_set(range(49)), settings(review_rate=0.02))
    assert enough.review is not None and enough.review < enough.image


def test_invalid_rates_raise() -> None:
    with pytest.raises(UserError, match="review_rate needs method conformal or quantile; got f1m"):
        settings(method="f1max", review_rate=0.1)
    with pytest.raises(UserError, match=r"must be below 1; got 0.6 \+ 0.5"):
        settings(false_reject_rate=0.5, review_rate=0.6)
    with pytest.raises(UserError, match="threshold.review_rate"):
        settings(review_rate=0)


def test_violated_review_guarantee_gives_a_note() -> None:
    chosen = choose_thresholds(scored_set(range(99)), settings(review_rate=0.1))
    assert guarantee_note(chosen, 1, 40, 3) is None
    note = guarantee_note(chosen, 1, 40, 20)
    assert note is not None and "21 of 40" in note and "are in review or rejected" in note
    rejected = guarantee_note(chosen, 20, 40, 0)
    assert rejected is not None and "20 of 40" in rejected and "were rejected" in rejected


def test_report_counts_reviews_and_stores_them_for_comparisons(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    test = scored_set(rng.normal(size=40) + 1.5 * labels, labels)
    chosen = choose_thresholds(scored_set(rng.normal(size=60)), settings(review_rate=0.2))
    report = evaluate(test, chosen, EvaluationSettings(resamples=50))
    verdicts = [chosen.verdict(score) for score in test.image_scores]
    counts = Counter(zip(labels.tolist(), verdicts, strict=True))
    metrics = report.mean
    assert metrics["review_rate"] == counts[0, REVIEW] / 20 > 0
    assert metrics["anomalous_review_rate"] == counts[1, REVIEW] / 20 > 0
    assert metrics["escape_rate"] == counts[1, PASS] / 20
    assert metrics["false_reject_rate"] == counts[0, REJECT] / 20
    assert {"review_rate", "anomalous_review_rate"} <= set(report.intervals["mean"])
    save_evidence(report, tmp_path / "evidence.npz")
    loaded = load_evidence(tmp_path / "evidence.npz")
    assert (loaded["toy"].evidence.reviewed == report.evidence["toy"].reviewed).all()

    two = evaluate(test, Thresholds(chosen.image, chosen.pixel), EvaluationSettings(resamples=50))
    save_evidence(two, tmp_path / "two.npz")
    without = load_evidence(tmp_path / "two.npz")
    assert without["toy"].evidence.reviewed is None and "review_rate" not in two.mean
    compared = paired_differences(without, loaded, 50).differences["toy"]
    assert compared["escape_rate"].value == pytest.approx(-counts[1, REVIEW] / 20)
    assert compared["false_reject_rate"].value == 0 and "review_rate" not in compared
