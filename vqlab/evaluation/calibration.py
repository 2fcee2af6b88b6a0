"""Scores of the held-out normal images: conformal p-values, and a scale for display.

Verdicts compare raw scores with thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.verdict import p_value

QUANTILES = 65
"""Maximum number of stored quantiles; 65 include the quartiles."""
MEDIAN = Fraction(1, 20)
"""Value of the median normal image."""


@dataclass(frozen=True)
class CalibrationScores:
    """Quantiles of the image scores of the held-out normal images."""

    count: int
    quantiles: tuple[float, ...] = field(repr=False)
    """Evenly spaced quantiles, lowest to highest score; all scores if they are few."""
    scores: tuple[float, ...] = field(default=(), repr=False)
    """All scores, lowest first, if there are more than quantiles; empty in older checkpoints."""

    def __post_init__(self) -> None:
        for name in ("quantiles", "scores"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # a list if read from JSON

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> CalibrationScores:
        """Summarise scores (N,), N ≥ 1."""
        ordered = tuple(np.sort(scores).astype(np.float64).tolist())
        if len(ordered) <= QUANTILES:
            return cls(len(ordered), ordered)
        quantiles = tuple(_quantiles(scores, np.linspace(0, 1, QUANTILES)))
        return cls(len(ordered), quantiles, ordered)

    @property
    def exact(self) -> bool:
        """Whether all scores are stored, so that p-values are exact."""
        return len(self.scores or self.quantiles) == self.count

    def p_value(self, score: float) -> float:
        """Return the conformal p-value of an image score, see `vqlab.verdict.p_value`; an upper
        bound if not all scores are stored (`exact`)."""
        return p_value(score, self.scores or self.quantiles, self.count)

    @property
    def minimum(self) -> float:
        return self.quantiles[0]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile."""
        low, middle, high = _quantiles(self.quantiles, (0.25, 0.5, 0.75))
        return low, middle, high

    @property
    def maximum(self) -> float:
        return self.quantiles[-1]


def display_unit(threshold: float, normal: CalibrationScores | None) -> Fraction:
    """Return the unit of `vqlab.verdict.calibrated` that maps the median normal image to 0.05.

    Positive. If the median is not below the threshold, it is derived from the range of the scores.
    normal: None for older checkpoints; the unit is then derived from the threshold.
    """
    exact = Fraction(float(threshold))
    candidates = [abs(exact), Fraction(1)]
    if normal is not None:
        low, median, high = map(Fraction, (normal.minimum, normal.quartiles[1], normal.maximum))
        candidates = [exact - median, high - low, abs(exact) / 1_000_000, Fraction(1, 1_000_000)]
    distance = next(width for width in candidates if width > 0)
    return distance * MEDIAN / (Fraction(1, 2) - MEDIAN)


def _quantiles(scores: Sequence[float] | NDArray[np.float64], shares: Any) -> list[float]:
    """Return quantiles of finite scores, even if their differences overflow."""
    values = np.asarray(scores, np.float64)
    scale = 0.5 if np.abs(values).max() > np.finfo(np.float64).max / 2 else 1.0
    quantiles = np.quantile(values * scale, shares) / scale
    ends = [np.equal(shares, 0), np.equal(shares, 1)]  # exactly: scaling rounds subnormal scores
    quantiles = np.select(ends, [values.min(), values.max()], quantiles)
    result: list[float] = quantiles.tolist()
    return result
