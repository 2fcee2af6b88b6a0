"""Confidence intervals, and differences that have one."""

from __future__ import annotations

from typing import NamedTuple

LEVEL = 0.95
"""Confidence level of every interval."""
_MOST_DIGITS = 6


class Interval(NamedTuple):
    """A confidence interval at `LEVEL`, from `low` to `high`."""

    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return `0.00–0.46`, with more digits where both ends would look the same."""
        while digits < _MOST_DIGITS and f"{self.low:.{digits}f}" == f"{self.high:.{digits}f}":
            digits += 1
        return f"{self.low:.{digits}f}–{self.high:.{digits}f}"


class Difference(NamedTuple):
    """One metric of two detectors on the same images: the second's minus the first's."""

    value: float
    interval: Interval | None
    """None where the images cannot tell how sure the difference is."""
    p: float | None
    """Two-sided p-value of no difference; None where the images cannot tell."""
    reason: str = ""
    """Why there is no interval; empty where there is one."""
