"""Bootstrap intervals: coverage, and their absence with few images."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from test_stream import smooth_maps

from vqlab.metrics import (
    CONSTANT,
    METRICS,
    TOO_FEW,
    Evidence,
    PixelStream,
    distributions,
    enough_images,
    image_metrics,
    intervals,
    least_auroc,
    paired_difference,
    resample,
)
from vqlab.metrics.summary import pixel_metrics


def case(count: int = 24, seed: int = 0, lift: float = 0.0):
    maps, masks = smooth_maps(count, 48, seed)
    maps = maps + np.float32(lift) * masks
    labels = masks.any(axis=(1, 2)).astype(int)
    scores = maps.max(axis=(1, 2)).astype(float)
    images = PixelStream(keep_images=True).update(maps, masks).images
    return maps, masks, Evidence.of(scores, labels, scores > np.median(scores), images)


def test_first_row_is_the_metric_of_the_full_set():
    maps, masks, evidence = case()
    result = distributions(evidence, np.ones((1, 24), np.float32))
    exact = image_metrics(evidence.scores, evidence.labels)
    for name, value in exact.items():
        assert result[name][0] == pytest.approx(value, abs=1e-6)
    for name, value in pixel_metrics(list(maps), list(masks)).items():
        assert result[name][0] == pytest.approx(value, abs=0.01)  # coarse histograms
    rejected = evidence.flagged[evidence.labels == 0].mean()
    assert result["false_reject_rate"][0] == pytest.approx(rejected)


def test_row_equals_the_metric_of_the_resampled_images():
    maps, masks, evidence = case()
    weights = resample(evidence.labels, 5, seed=3)
    result = distributions(evidence, weights)
    for row in range(1, 6):
        times = weights[row].astype(int)
        resampled = np.repeat(np.arange(24), times)
        scores, labels = evidence.scores[resampled], evidence.labels[resampled]
        for name, value in image_metrics(scores, labels).items():
            assert result[name][row] == pytest.approx(value, abs=1e-5)
        exact = pixel_metrics(list(maps[resampled]), list(masks[resampled]))
        for name, value in exact.items():
            assert result[name][row] == pytest.approx(value, abs=0.015), name


def test_resamples_are_stratified_and_seeded():
    labels = np.array([0] * 7 + [1] * 5)
    weights = resample(labels, 50, seed=1)
    assert (weights[0] == 1).all()
    assert (weights[:, labels == 0].sum(1) == 7).all()
    assert (weights[:, labels == 1].sum(1) == 5).all()
    assert (weights == resample(labels, 50, seed=1)).all()
    assert (weights != resample(labels, 50, seed=2)).any()


def test_intervals_have_nominal_coverage():
    """Normal and defect scores have means 1 apart: the true AUROC is Φ(1

    √2) = 0.7602.
    """
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    covered = 0
    for seed in range(200):
        scores = rng.normal(labels, 1)
        evidence = Evidence.of(scores, labels, scores > 1, [None] * 80)
        result = distributions(evidence, resample(labels, 150, seed))
        low, high = intervals(image_metrics(scores, labels), result)["image_auroc"]
        covered += low <= 0.7602 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_without_masks_there_are_image_metrics_only():
    scores, labels = np.array([0.1, 0.2, 0.9, 0.8]), np.array([0, 0, 1, 1])
    evidence = Evidence.of(scores, labels, scores > 0.5, [None] * 4)
    result = distributions(evidence, resample(labels, 10))
    assert {METRICS[name].level for name in result} == {"image"}
    assert {"image_auroc", "image_ap", "false_reject_rate", "escape_rate"} <= set(result)


def test_paired_difference_is_significant_where_unpaired_intervals_overlap():
    _, _, first = case(seed=5)
    _, _, second = case(seed=5, lift=0.3)
    weights = resample(first.labels)
    a, b = distributions(first, weights), distributions(second, weights)
    name = "pixel_auroc"
    value = float(b[name][0] - a[name][0])
    result = paired_difference(b[name] - a[name], value)
    assert result.interval.low > 0
    assert result.p < 0.01
    same = paired_difference(a[name] - a[name], 0.0)
    assert same.p == 1
    assert same.interval is None and same.reason == CONSTANT
    reversed_result = paired_difference(a[name] - b[name], -value)
    assert reversed_result.p == result.p
    assert reversed_result.interval.low == pytest.approx(-result.interval.high)


def test_zero_width_intervals_are_omitted():
    """Perfect separation: every resample of any size has an AUROC of 1."""
    labels = np.repeat([0, 1], 20)
    scores = np.arange(40.0)
    evidence = Evidence.of(scores, labels, scores > 19.5, [None] * 40)
    result = distributions(evidence, resample(labels, 100))
    assert intervals(image_metrics(scores, labels), result) == {}
    inverted = Evidence.of(-scores, labels, scores > 19.5, [None] * 40)
    differences = (
        result["image_auroc"] - distributions(inverted, resample(labels, 100))["image_auroc"]
    )
    assert paired_difference(differences, 1.0) == (1.0, None, None, CONSTANT)


def test_few_images_have_no_interval():
    labels = np.array([0] * 9 + [1] * 4)
    images = PixelStream(keep_images=True).update(*smooth_maps(13, 24, 0)).images
    evidence = Evidence.of(np.arange(13.0), labels, labels > 0, images)
    assert not enough_images(evidence, "image_auroc") and not enough_images(evidence, "escape_rate")
    differences = np.linspace(0.1, 0.2, 50)
    assert paired_difference(differences, 0.1, enough=False) == (0.1, None, None, TOO_FEW)


def test_lower_bound_of_a_perfect_auroc():
    """At the lowest AUROC that is not excluded, perfect separation has a probability below 2.5
    %."""
    assert least_auroc(3, 3) == pytest.approx(0.2924, abs=1e-4)
    assert least_auroc(100, 6) == least_auroc(6, 6)
    lift = 2**0.5 * NormalDist().inv_cdf(least_auroc(6, 6))
    rng = np.random.default_rng(0)
    normal, anomalous = rng.normal(size=(20000, 6)), rng.normal(lift, 1, size=(20000, 6))
    assert (normal.max(1) < anomalous.min(1)).mean() < 0.025


def test_kinds_are_resampled_along_with_their_images() -> None:
    labels = np.array([0] * 4 + [1] * 6)
    kinds = np.array([-1] * 4 + [0, 0, 1, 1, 1, 2])
    weights = resample(labels, 2000, kinds=kinds)
    assert (weights[0] == 1).all()
    assert (weights[1:, :4].sum(1) == 4).all(), "weights of normal images are unaffected by kinds"
    counts = {0: 2, 1: 3, 2: 1}
    totals = np.stack([weights[1:, kinds == k].sum(1) / n for k, n in counts.items()])
    assert (totals == np.round(totals)).all() and (totals.sum(0) == 3).all()
    assert np.allclose(totals.mean(1), 1, atol=0.06) and (totals == 0).any(1).all()
