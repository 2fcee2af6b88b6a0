"""A martingale that bets on a change of the distribution of p-values at an unknown time."""

from __future__ import annotations

import math
from collections.abc import Sequence

EXPONENTS = (1 / 8, 1 / 4, 1 / 2)
"""Densities κ p^(κ - 1) of the bets: the smaller κ, the larger the bet on small p-values."""
_SMALLEST = 2.0**-53
_ACCOUNTS = 2 * len(EXPONENTS)


class ChangeMartingale:
    """Wealth of a gambler who bets on p-values p_1, p_2, …, starting from 1.

    At time t, the share 1 / (t (t + 1)) of the initial wealth is divided among six accounts; the
    rest, 1 / (t + 1), is not bet. Account κ bets that p-values have the density κ p^(κ - 1) (power
    betting: Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World, section 7.1), for
    each κ in `EXPONENTS` and for p and 1 - p. The sum is a mixture over the time of the change: its
    wealth decays as 1 / t before it, not exponentially.

    If the p-values are independent and uniform, the wealth is a nonnegative martingale, so that
    P(it ever reaches 1 / α) ≤ α (Ville 1939).
    """

    def __init__(self, count: int = 0, accounts: Sequence[float] = ()) -> None:
        """Continue after `count` p-values with these logarithms of the accounts."""
        self.count = count
        self.accounts = list(accounts) or [-math.inf] * _ACCOUNTS

    @property
    def log_wealth(self) -> float:
        """Natural logarithm of the wealth."""
        terms = [-math.log(self.count + 1), *self.accounts]
        highest = max(terms)
        return highest + math.log(math.fsum(math.exp(term - highest) for term in terms))

    def update(self, p_value: float) -> float:
        """Bet on the next p-value, in (0, 1); return the logarithm of the wealth."""
        self.count += 1
        entering = -math.log(self.count * (self.count + 1) * _ACCOUNTS)
        sides = [math.log(max(side, _SMALLEST)) for side in (p_value, 1 - p_value)]
        bets = ((exponent, side) for exponent in EXPONENTS for side in sides)
        self.accounts = [
            _log_add(account, entering) + math.log(exponent) + (exponent - 1) * side
            for account, (exponent, side) in zip(self.accounts, bets, strict=True)
        ]
        return self.log_wealth


def _log_add(first: float, second: float) -> float:
    """Return log(exp(first) + exp(second)); `second` is finite."""
    high, low = max(first, second), min(first, second)
    return high + math.log1p(math.exp(low - high))
