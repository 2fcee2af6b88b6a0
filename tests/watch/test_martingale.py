"""The wealth is a martingale with mean 1 under uniform p-values, and grows after a change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vqlab.watch.martingale import ChangeMartingale


def wealth_after(before: ChangeMartingale, p_value: float) -> float:
    copy = ChangeMartingale(before.count, before.accounts)
    return math.exp(copy.update(p_value))


@pytest.mark.parametrize("p_values", [[], [0.5], [0.001, 0.01], [0.999, 0.2, 0.7, 0.01, 0.01]])
def test_the_mean_wealth_after_a_uniform_p_value_is_the_wealth_before(
    p_values: list[float],
) -> None:
    before = ChangeMartingale()
    for p_value in p_values:
        before.update(p_value)

    nodes, weights = np.polynomial.legendre.leggauss(400)
    mean = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        u = (node + 1) / 2 * 0.5**0.125
        p = u**8  # p = u^8 and p = 1 - u^8: no singularities
        both = wealth_after(before, p) + wealth_after(before, 1 - p)
        mean += weight / 2 * 0.5**0.125 * both * 8 * u**7
    wealth = math.exp(before.log_wealth)
    assert 0.99 * wealth < mean <= wealth * (1 + 1e-6)  # p-values are at least 2^-53


def test_it_starts_at_one_and_its_parts_are_never_negative() -> None:
    assert ChangeMartingale().log_wealth == 0
    assert math.isfinite(ChangeMartingale().update(1.0))
    assert math.isfinite(ChangeMartingale().update(1e-300))


def test_wealth_decays_slowly_and_recovers_within_few_parts_of_a_change() -> None:
    rng = np.random.default_rng(0)
    martingale = ChangeMartingale()
    for p_value in rng.random(5000):
        martingale.update(float(p_value))
    assert martingale.log_wealth > -2 * math.log(5000)
    for high in (False, True):
        changed = ChangeMartingale(martingale.count, martingale.accounts)
        for p_value in rng.random(40) * 0.05:
            changed.update(float(1 - p_value if high else p_value))
        assert changed.log_wealth > math.log(100)


def test_large_wealth_does_not_overflow() -> None:
    martingale = ChangeMartingale()
    for _ in range(2000):
        martingale.update(1e-9)
    assert 1000 < martingale.log_wealth < math.inf
