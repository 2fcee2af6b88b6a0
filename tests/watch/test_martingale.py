"""The wealth is a martingale with mean 1 under uniform p-values and grows after a change."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from vqlab.watch.martingale import ChangeMartingale


def wealth_after(before: ChangeMartingale, p_value: float) -> float:
    copy = ChangeMartingale(before.count, before.accounts)
    return math.exp(copy.update(p_value))


@pytest.mark.parametrize("p_values", [[], [0.5], [0.001, 0.01], [0.999, 0.2, 0.7, 0.01, 0.01]])
def test_uniform_p_value_preserves_the_mean_wealth(
    p_values: list[float],
) -> None:
    before = ChangeMartingale()
    for p_value in p_values:
        before.update(p_value)

    nodes, weights = np.polynomial.legendre.leggauss(400)
    mean = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        u = (node + 1) / 2 * 0.5**0.125
        p = u**8  # substitution p = u^8 and p = 1 - u^8 removes the singularities
        both = wealth_after(before, p) + wealth_after(before, 1 - p)
        mean += weight / 2 * 0.5**0.125 * both * 8 * u**7
    wealth = math.exp(before.log_wealth)
    assert 0.99 * wealth < mean <= wealth * (1 + 1e-6)  # p-values are at least 2^-53


@pytest.mark.parametrize("parts", [0.05, 0.3, 0.9, 1.0])
def test_uniform_p_value_preserves_the_mean_of_the_early_accounts(
    parts: float,
) -> None:
    """Exact, because they depend only on whether p and 1 - p are at most `parts`."""
    before = ChangeMartingale()
    for p_value, share in ((0.01, 1 / 3), (0.8, 0.5), (0.2, 0.6)):
        before.update(p_value, share)
    ends = sorted({0.0, parts, 1 - parts, 1.0})
    mean = np.zeros(4)
    for low, high in itertools.pairwise(ends):
        after = ChangeMartingale(before.count, before.accounts)
        after.update((low + high) / 2, parts)
        mean += (high - low) * np.exp(after.accounts[6:])
    np.testing.assert_allclose(mean, np.exp(before.accounts[6:]), rtol=1e-12)


@pytest.mark.parametrize("high", [False, True])
def test_few_calibration_images_suffice_if_all_first_parts_exceed_them(
    high: bool,
) -> None:
    """P-values of parts that are all above (below) 6 calibration images. The accounts of earlier
    versions do not gain enough."""
    martingale, earlier = ChangeMartingale(), ChangeMartingale(0, [-math.inf] * 6)
    highest = -math.inf
    for number in range(1, 201):
        share = number / (6 + number)
        p_value = abs(high - share * (number * 0.618 % 1))
        martingale.update(p_value, share)
        highest = max(highest, earlier.update(p_value, share))
        if number == 12:
            assert martingale.log_wealth > math.log(200)
    assert martingale.log_wealth > math.log(1e4) and highest < math.log(100)


def test_martingale_of_an_earlier_version_continues_with_six_accounts() -> None:
    """Its wealth is 1 / (t + 1) and the accounts, with entries of 1 / (6 t (t + 1))."""
    p_values = [0.02, 0.5, 0.9]
    accounts = [0.0] * 6
    for time, p_value in enumerate(p_values, 1):
        bets = [(k, side) for k in (1 / 8, 1 / 4, 1 / 2) for side in (p_value, 1 - p_value)]
        accounts = [
            (account + 1 / (6 * time * (time + 1))) * k * side ** (k - 1)
            for account, (k, side) in zip(accounts, bets, strict=True)
        ]
    martingale = ChangeMartingale(0, [-math.inf] * 6)
    for p_value in p_values:
        martingale.update(p_value, 0.1)
    assert len(martingale.accounts) == 6
    assert math.exp(martingale.log_wealth) == pytest.approx(1 / 4 + sum(accounts))


def test_starts_at_one_with_non_negative_accounts() -> None:
    assert ChangeMartingale().log_wealth == pytest.approx(0, abs=1e-15)
    assert math.isfinite(ChangeMartingale().update(1.0))
    assert math.isfinite(ChangeMartingale().update(1e-300))


def test_wealth_decays_slowly_and_recovers_after_a_change() -> None:
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
