"""A martingale that bets on a change of the distribution of p-values at an unknown time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

EXPONENTS = (1 / 8, 1 / 4, 1 / 2)
"""Densities κ p^(κ - 1) of the bets: the smaller κ, the larger the bet on small p-values."""
RESERVES = (0.1, 0.5)
"""Shares of the wealth of the early accounts that are not bet."""
EARLY = 0.25
"""Share of the initial wealth that bets on a change before the first part."""
_SMALLEST = 2.0**-53
_CHANGE, _EARLY = 2 * len(EXPONENTS), 2 * len(RESERVES)


class ChangeMartingale:
    """Wealth of a gambler who bets on p-values p_1, p_2, …, starting from 1.

    Three quarters of the initial wealth bet on a change at an unknown time. At time t, the share
    1 / (t (t + 1)) of them is divided among six accounts; the rest, 1 / (t + 1), is not bet.
    Account κ bets that p-values have the density κ p^(κ - 1) (power betting: Vovk, Gammerman,
    Shafer 2005, Algorithmic Learning in a Random World, section 7.1), for each κ in `EXPONENTS` and
    for p and 1 - p. The sum is a mixture over the time of the change: its wealth decays as 1 / t
    before it, not exponentially.

    One quarter bets in four early accounts on a change before the first part. If all t parts are
    ranked above all n calibration images, then p_t ≤ t / (n + t): as parts enter the ranks of later
    ones, p-values grow uniform, and powers of them no longer win. An early account bets the
    share 1 - ε of its wealth on p ≤ t / (n + t), for each ε in `RESERVES` and for p and 1 - p.
    That event has the probability t / (n + t) if p is uniform, which is known beforehand.

    If the p-values are independent and uniform, the wealth is a nonnegative martingale, so that
    P(it ever reaches 1 / α) ≤ α (Ville 1939).
    """

    def __init__(self, count: int = 0, accounts: Sequence[float] = ()) -> None:
        """Continue after `count` p-values with these logarithms of the accounts: ten, or the first
        six of a martingale of an earlier version, which has no early accounts."""
        self.count = count
        self.accounts = list(accounts)
        if not self.accounts:
            early = math.log(EARLY / _EARLY)
            self.accounts = [-math.inf] * _CHANGE + [early] * _EARLY

    @property
    def _log_share(self) -> float:
        """Logarithm of the share of the initial wealth that bets on a change at a later time."""
        return math.log(1 - EARLY) if len(self.accounts) > _CHANGE else 0.0

    @property
    def log_wealth(self) -> float:
        """Natural logarithm of the wealth."""
        terms = [self._log_share - math.log(self.count + 1), *self.accounts]
        highest = max(terms)
        return highest + math.log(math.fsum(math.exp(term - highest) for term in terms))

    def update(self, p_value: float, parts: float = 1.0) -> float:
        """Bet on the next p-value, in (0, 1); return the logarithm of the wealth.

        parts: share of parts among the images that the part was ranked with, t / (n + t), in
        (0, 1]; at 1, the early accounts do not bet.
        """
        self.count += 1
        entering = self._log_share - math.log(self.count * (self.count + 1) * _CHANGE)
        sides = (p_value, 1 - p_value)
        logs = [math.log(max(side, _SMALLEST)) for side in sides]
        powers = ((exponent, log) for exponent in EXPONENTS for log in logs)
        change = [
            _log_add(account, entering) + math.log(exponent) + (exponent - 1) * log
            for account, (exponent, log) in zip(self.accounts[:_CHANGE], powers, strict=True)
        ]
        self.accounts = [*change, *self._early(sides, parts)]
        return self.log_wealth

    def _early(self, sides: Sequence[float], parts: float) -> Iterable[float]:
        """Return the early accounts, if there are any, after a bet."""
        bets = [(reserve, side) for reserve in RESERVES for side in sides]
        for account, (reserve, side) in zip(self.accounts[_CHANGE:], bets, strict=False):
            yield account + math.log(reserve + (1 - reserve) / parts * (side <= parts))


def _log_add(first: float, second: float) -> float:
    """Return log(exp(first) + exp(second)); `second` is finite."""
    high, low = max(first, second), min(first, second)
    return high + math.log1p(math.exp(low - high))
