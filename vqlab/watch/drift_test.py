"""Sequential test of whether incoming parts are exchangeable with the held-out normal images."""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from vqlab.watch.martingale import ChangeMartingale


class DriftStep(NamedTuple):
    """Result of one part."""

    p_value: float
    """Online conformal p-value, in (0, 1); not the p-value of the verdict."""
    log_wealth: float
    """Natural logarithm of the martingale."""


class DriftTest:
    """Conformal test martingale on image scores.

    The p-value of part t is its smoothed rank among the n calibration scores and the scores of
    parts 1 … t: (#{s > s_t} + θ #{s = s_t}) / (n + t), with θ uniform in (0, 1). If calibration
    images and parts are exchangeable, these p-values are independent and uniform, exactly and for
    every n (Vovk, Gammerman, Shafer 2005, theorem 8.1; Vovk et al. 2021, arXiv:2102.10439).
    P-values by the n calibration scores alone would not be: all of them share the error of these n
    scores, which a long stream reveals. An alarm at wealth ≥ 1 / level is false with probability at
    most `level`, over the whole life of the test.
    """

    def __init__(self, calibration: Iterable[float], level: float) -> None:
        """calibration: image scores of the held-out normal images; may be empty. level: in
        (0, 1)."""
        self.level = level
        self.martingale = ChangeMartingale()
        self._scores = array("d", sorted(calibration))

    def restore(self, scores: Iterable[float], martingale: ChangeMartingale) -> None:
        """Continue a test in which parts had these scores and led to this martingale."""
        self._scores = array("d", sorted([*self._scores, *scores]))
        self.martingale = martingale

    @property
    def alarm_at(self) -> float:
        """Logarithm of the wealth that raises an alarm."""
        return -math.log(self.level)

    def update(self, score: float, theta: float) -> DriftStep:
        """Test the next part. score: finite. theta: uniform in (0, 1), independent of the
        scores."""
        low, high = bisect_left(self._scores, score), bisect_right(self._scores, score)
        above, total = len(self._scores) - high, len(self._scores) + 1
        p_value = (above + theta * (high - low + 1)) / total
        self._scores.insert(high, score)
        return DriftStep(p_value, self.martingale.update(p_value))


def tie_breaker(test: int, number: int) -> float:
    """Return θ of a part, by its number in a test: pseudo-random in (0, 1), always the same."""
    return max(random.Random(f"{test} {number}").random(), 2.0**-53)
