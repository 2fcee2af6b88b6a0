"""Bootstrap of means over seeds, and agreement with the comparison of two runs."""

from __future__ import annotations

import numpy as np
import pytest

from vqlab.benchmark.resampling import Resampled
from vqlab.benchmark.results import Measured
from vqlab.evaluation import MEAN, CategoryEvidence, paired_differences
from vqlab.metrics import Evidence, image_metrics

METRICS = ("image_auroc",)


def evidence(shift: float, seed: int, count: int = 40) -> CategoryEvidence:
    """Return scores of `count` images, every second one anomalous with scores raised by `shift`."""
    labels = np.arange(count) % 2
    difficulty = np.random.default_rng(7).normal(size=count)  # shared by all detectors
    scores = difficulty + shift * labels + 0.3 * np.random.default_rng(seed).normal(size=count)
    empty = np.zeros((count, 0), np.float32)
    flagged = scores > 1
    return CategoryEvidence(
        dict(image_metrics(scores, labels)), Evidence(scores, labels, flagged, *[empty] * 3)
    )


def measured(seeds: int) -> Measured:
    return {
        method: {
            category: {seed: evidence(shift, 10 * place + seed) for seed in range(seeds)}
            for place, category in enumerate(("x", "y"))
        }
        for method, shift in (("weak", 0.3), ("strong", 1.5))
    }


def test_one_seed_agrees_with_the_comparison_of_two_runs() -> None:
    parts = measured(1)
    resampled = Resampled(parts, ("weak", "strong"), ("x", "y"), METRICS, 200)
    runs = [{c: seeds[0] for c, seeds in parts[name].items()} for name in ("weak", "strong")]
    expected = paired_differences(runs[0], runs[1], 200, 0, METRICS).differences
    for column in ("x", "y", MEAN):
        difference = resampled.difference(("weak", "strong"), column, "image_auroc")
        of_two_runs = expected[column]["image_auroc"]
        assert difference is not None and difference.interval is not None
        assert (difference.value, difference.p) == pytest.approx((of_two_runs.value, of_two_runs.p))
        assert difference.interval == pytest.approx(of_two_runs.interval)


def test_means_over_seeds_and_categories() -> None:
    parts = measured(3)
    resampled = Resampled(parts, ("weak", "strong"), ("x", "y"), METRICS, 100)
    for category in ("x", "y"):
        values = [each.metrics["image_auroc"] for each in parts["weak"][category].values()]
        assert resampled.value("weak", category, "image_auroc") == pytest.approx(np.mean(values))
    both = [resampled.value("weak", category, "image_auroc") for category in ("x", "y")]
    assert resampled.value("weak", MEAN, "image_auroc") == pytest.approx(np.mean(both))
    interval = resampled.interval("weak", MEAN, "image_auroc")
    assert interval is not None and interval.low < np.mean(both) < interval.high


def test_pairing_and_direction() -> None:
    resampled = Resampled(measured(2), ("weak", "strong"), ("x", "y"), METRICS, 300)
    there = resampled.difference(("weak", "strong"), MEAN, "image_auroc")
    reversed_result = resampled.difference(("strong", "weak"), MEAN, "image_auroc")
    assert (
        there is not None
        and reversed_result is not None
        and there.interval
        and there.p == reversed_result.p
    )
    assert there.value == -reversed_result.value > 0 and there.interval.low > 0
    # Image difficulty is shared, so the paired interval is narrower than both unpaired intervals.
    unpaired = [resampled.interval(name, MEAN, "image_auroc") for name in ("weak", "strong")]
    widths = [each.high - each.low for each in unpaired if each is not None]
    assert there.interval.high - there.interval.low < sum(widths)


def test_too_few_images_have_no_interval() -> None:
    parts: Measured = {"a": {"x": {0: evidence(0.5, 1, count=6)}}}
    resampled = Resampled(parts, ("a",), ("x",), METRICS, 50)
    assert resampled.interval("a", "x", "image_auroc") is None
