"""P-values of exchangeable scores are uniform and independent; the false-alarm rate is bounded."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from false_alarms import false_alarms
from scipy.stats import binom

from vqlab.watch.drift_test import DriftTest, tie_breaker

LEVEL = 0.05


@pytest.mark.parametrize("scores", [(1.0, 2.0, 3.0, 4.0), (1.0, 1.0, 2.0, 2.0), (5.0,) * 4])
@pytest.mark.parametrize("calibration", [0, 1, 2])
@pytest.mark.parametrize("categorical", [False, True])
def test_p_values_are_uniform_and_independent_over_all_orders(
    scores: tuple[float, ...], calibration: int, categorical: bool
) -> None:
    """Compute moments of the last two p-values, over all orders and exactly over θ
    (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    theta, weights = (nodes + 1) / 2, weights / 2
    moments = np.zeros((3, 3))
    orders = list(itertools.permutations(scores))
    for order in orders:
        for (first, u), (second, v) in itertools.product(
            zip(theta, weights, strict=True), repeat=2
        ):
            test = DriftTest(order[:calibration], LEVEL, categorical)
            thetas = [0.5] * (len(scores) - calibration - 2) + [first, second]
            p, q = [
                test.update(score, t).p_value
                for score, t in zip(order[calibration:], thetas, strict=True)
            ][-2:]
            moments += u * v * np.outer([1, p, p * p], [1, q, q * q]) / len(orders)
    uniform = np.array([1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(moments, np.outer(uniform, uniform), atol=1e-12)


def test_false_alarm_rate_is_within_the_level() -> None:
    """At the nominal level, more alarms than the limit have probability < 1e-6. P-values from the
    calibration scores only exceed the limit."""
    limit = int(binom.isf(1e-6, 100, LEVEL))
    assert false_alarms(100, 300, calibration=20, level=LEVEL) <= limit
    assert false_alarms(100, 300, calibration=20, level=LEVEL, growing=False) > limit


@pytest.mark.parametrize(("start", "sign"), [(0, 1), (500, 1), (500, -1)])
def test_change_raises_an_alarm_within_200_parts(start: int, sign: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        test = DriftTest(rng.normal(size=40).tolist(), 0.01)
        steps = [
            test.update(float(score), float(rng.random())).log_wealth
            for score in [*rng.normal(size=start), *rng.normal(2.0 * sign, size=200)]
        ]
        assert max(steps[start:]) >= test.alarm_at


def test_restored_test_equals_uninterrupted_test() -> None:
    scores = np.random.default_rng(0).normal(size=60).round(1).tolist()
    uninterrupted, first = DriftTest(scores[:20], LEVEL), DriftTest(scores[:20], LEVEL)
    steps = [
        uninterrupted.update(score, tie_breaker(1, n)) for n, score in enumerate(scores[20:], 1)
    ]
    for number, score in enumerate(scores[20:40], 1):
        first.update(score, tie_breaker(1, number))
    second = DriftTest(scores[:20], LEVEL)
    second.restore(scores[20:40], first.martingale)
    resumed_steps = [second.update(s, tie_breaker(1, n)) for n, s in enumerate(scores[40:], 21)]
    assert resumed_steps == steps[20:]


def test_tie_breaking_is_random_and_reproducible() -> None:
    values = [tie_breaker(1, number) for number in range(1000)]
    assert values == [tie_breaker(1, number) for number in range(1000)]
    assert values[:3] != [tie_breaker(2, number) for number in range(3)]
    assert 0 < min(values) and max(values) < 1 and abs(np.mean(values) - 0.5) < 0.05


def test_changed_category_frequencies_raise_an_alarm() -> None:
    calibration = [0, 1, 2, 0, 1, 0] * 10
    for after in ([3], [0], [2]):
        test = DriftTest(calibration, 0.01, categorical=True)
        steps = [test.update(after[0], tie_breaker(1, n)).log_wealth for n in range(1, 201)]
        assert max(steps) >= test.alarm_at
