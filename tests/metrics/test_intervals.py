"""Exact intervals of rates from few images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from vqlab.metrics import Count, Interval, paired_rates, rate_counts, rate_interval


@pytest.mark.parametrize("count", [(0, 6), (6, 6), (1, 3), (7, 150), (0, 1)])
def test_rate_interval_is_clopper_pearson(count: tuple[int, int]) -> None:
    expected = binomtest(*count).proportion_ci()
    assert rate_interval([Count(*count)]) == pytest.approx(tuple(expected))


def test_text_format() -> None:
    assert f"escapes {Count(0, 6)}: {rate_interval([Count(0, 6)]).text()}" == (
        "escapes 0 of 6: 0.00–0.46"
    )
    assert Interval(0.9971, 0.9999).text() == "0.997–1.000"  # rounding must keep both ends distinct


def test_interval_of_a_mean_of_rates_has_nominal_coverage() -> None:
    """Three categories of six images: an observed mean rate of 0 still has an upper bound."""
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.05 <= high
        for low, high in (
            rate_interval([Count(int(hits), 6) for hits in rng.binomial(6, 0.05, 3)])
            for _ in range(500)
        )
    ]
    assert np.mean(covered) >= 0.95
    assert rate_interval([Count(0, 3)] * 5).high == pytest.approx(
        rate_interval([Count(0, 15)]).high
    )


def test_counts_are_derived_from_rates_and_image_numbers() -> None:
    metrics = {"false_reject_rate": 1 / 3, "escape_rate": 0.25}
    assert rate_counts(metrics) == {}
    result = rate_counts({**metrics, "normal_images": 3.0, "anomalous_images": 8.0})
    assert result == {
        "false_reject_rate": (1, 3), "escape_rate": (2, 8), "image_recall": (6, 8),
        "image_precision": (6, 7),
    }  # fmt: skip
    assert rate_counts({"normal_images": 3, "false_reject_rate": 0.0}) == {
        "false_reject_rate": (0, 3)
    }


def test_paired_rates_use_the_discordant_images() -> None:
    before = np.array([1, 1, 1, 0, 0, 0], bool)
    result = paired_rates(before, np.zeros(6, bool))
    assert result.value == -0.5 and result.p == 0.25  # three discordant images of three: 2 · 0.5³
    assert result.interval is not None and result.interval.low == -0.5 and result.interval.high > 0
    reversed_result = paired_rates(np.zeros(6, bool), before)
    assert reversed_result.interval == pytest.approx((-result.interval.high, 0.5))
    same = paired_rates(before, before)
    assert (same.value, same.interval, same.p) == (0, None, 1)
    many = paired_rates(np.ones(20, bool), np.zeros(20, bool))
    assert many.interval is not None and many.interval.high < 0 and many.p < 0.001
