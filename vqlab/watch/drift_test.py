"""Sequential test of whether one property of incoming parts is exchangeable with that of the
held-out normal images."""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
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
    """Conformal test martingale on a property of images, such as the image score.

    The p-value of part t is its smoothed rank among n calibration values and the values of parts
    1 … t: (#{a > a_t} + θ #{a = a_t}) / (n + t), with θ uniform in (0, 1). The strangeness a is the
    value itself (a small p-value: a large value), or for a categorical property minus the number of
    calibration images and parts 1 … t in its category (a small p-value: a rare category).

    If calibration images and parts are exchangeable, these p-values are independent and uniform,
    exactly and for every n: a is the same function of the image and of the *set* of the first
    n + t images for each of them, so that given this set and all later images, every rank is
    equally likely (Vovk, Nouretdinov, Gammerman 2003, "Testing exchangeability on-line"; Vovk,
    Gammerman, Shafer 2005, theorem 8.1; Vovk et al. 2021, arXiv:2102.10439). P-values by the n
    calibration values alone would not be: all of them share the error of these n values, which a
    long stream reveals. An alarm at wealth ≥ 1 / level is false with probability at most `level`,
    over the whole life of the test.
    """

    def __init__(
        self, calibration: Iterable[float], level: float, categorical: bool = False
    ) -> None:
        """calibration: values of the held-out normal images; may be empty. level: in (0, 1).
        categorical: values are indices of categories."""
        self.level = level
        self.martingale = ChangeMartingale()
        self._seen: _Numbers | _Categories = _Categories() if categorical else _Numbers()
        self._seen.extend(calibration)

    def restore(self, values: Iterable[float], martingale: ChangeMartingale) -> None:
        """Continue a test in which parts had these values and led to this martingale."""
        self._seen.extend(values)
        self.martingale = martingale

    @property
    def alarm_at(self) -> float:
        """Logarithm of the wealth that raises an alarm."""
        return -math.log(self.level)

    def update(self, value: float, theta: float) -> DriftStep:
        """Test the next part. value: finite. theta: uniform in (0, 1), independent of the
        values."""
        above, equal, total = self._seen.add(value)
        p_value = (above + theta * equal) / total
        parts = (self.martingale.count + 1) / total
        return DriftStep(p_value, self.martingale.update(p_value, parts))


class _Numbers:
    """Values in order; the strangeness is the value."""

    def __init__(self) -> None:
        self._values = array("d")

    def extend(self, values: Iterable[float]) -> None:
        self._values = array("d", sorted([*self._values, *values]))

    def add(self, value: float) -> tuple[int, int, int]:
        """Add a value; return how many are larger, how many are equal, and how many there are."""
        low, high = bisect_left(self._values, value), bisect_right(self._values, value)
        self._values.insert(high, value)
        return len(self._values) - 1 - high, high - low + 1, len(self._values)


class _Categories:
    """Number of images in each category; the strangeness of an image is minus that of its own."""

    def __init__(self) -> None:
        self._counts = Counter[float]()

    def extend(self, values: Iterable[float]) -> None:
        self._counts.update(values)

    def add(self, value: float) -> tuple[int, int, int]:
        """Add an image; return how many are in rarer categories, how many in those as frequent as
        its own, and how many there are."""
        self._counts[value] += 1
        own, counts = self._counts[value], self._counts.values()
        above = sum(count for count in counts if count < own)
        return above, sum(count for count in counts if count == own), self._counts.total()


def tie_breaker(test: int, number: int, stream: str = "") -> float:
    """Return θ of a part, by its number in a test, and of a stream: pseudo-random in (0, 1), always
    the same."""
    seed = " ".join(filter(None, (str(test), str(number), stream)))
    return max(random.Random(seed).random(), 2.0**-53)
