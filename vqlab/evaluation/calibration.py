"""Calibration: what the scores of held-out normal images say of a new score, as a number in [0, 1].

For display only: verdicts compare raw scores with the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = 65
"""Most quantiles kept of the calibration scores; 65 hold the quartiles exactly."""
MEDIAN = Fraction(1, 20)
"""What the median normal image is mapped to."""


@dataclass(frozen=True)
class CalibrationScores:
    """A summary of the image scores of the held-out normal images that thresholds come from."""

    count: int
    quantiles: tuple[float, ...]
    """Evenly spaced quantiles, lowest to highest score; all the scores where these are few."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantiles", tuple(self.quantiles))  # a list, when from JSON

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> CalibrationScores:
        """Of scores (N,), N ≥ 1."""
        shares = np.linspace(0, 1, min(len(scores), QUANTILES))
        return cls(len(scores), tuple(_quantiles(scores, shares)))

    @property
    def minimum(self) -> float:
        """The lowest score."""
        return self.quantiles[0]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile."""
        low, middle, high = _quantiles(self.quantiles, (0.25, 0.5, 0.75))
        return low, middle, high

    @property
    def maximum(self) -> float:
        """The highest score."""
        return self.quantiles[-1]


def calibrated(score: float, threshold: float, normal: CalibrationScores | None) -> float:
    """A raw image score on the scale of its model, in [0, 1]: 0.5 at the threshold.

    The median normal image gets 0.05 and the same distance above the threshold 0.95. Never falls
    where the score rises. Tails fall off as 1 / distance and not exponentially, so that scores far
    from the threshold stay different as long as float64 tells the results apart. Not a
    probability: how common defects are is not known. Without a summary (an older checkpoint) the
    threshold's own size is the unit.

    Computed in exact fractions and rounded once, so that this holds for all finite floats, where
    a difference may overflow and a unit may be subnormal.
    """
    if not (math.isfinite(score) and math.isfinite(threshold)):
        return math.nan if math.isnan(score - threshold) else float(score > threshold)
    distance = Fraction(float(score)) - Fraction(float(threshold))
    unit = _unit(threshold, normal)
    share = float(unit / (unit + abs(distance)) / 2)
    return share if distance < 0 else 1 - share


def _unit(threshold: float, normal: CalibrationScores | None) -> Fraction:
    """The distance from the threshold at which the scale reads 0.25 and 0.75; positive."""
    own = Fraction(float(threshold))
    candidates = [abs(own), Fraction(1)]
    if normal is not None:
        low, median, high = map(Fraction, (normal.minimum, normal.quartiles[1], normal.maximum))
        candidates = [own - median, high - low, abs(own) / 1_000_000, Fraction(1, 1_000_000)]
    reach = next(width for width in candidates if width > 0)
    return reach * MEDIAN / (Fraction(1, 2) - MEDIAN)


def _quantiles(scores: Sequence[float] | NDArray[np.float64], shares: Any) -> list[float]:
    """Quantiles of finite scores, also of some whose differences overflow."""
    values = np.asarray(scores, np.float64)
    scale = 0.5 if np.abs(values).max() > np.finfo(np.float64).max / 2 else 1.0
    quantiles = np.quantile(values * scale, shares) / scale
    ends = [np.equal(shares, 0), np.equal(shares, 1)]  # exactly: scaling rounds subnormal scores
    quantiles = np.select(ends, [values.min(), values.max()], quantiles)
    result: list[float] = quantiles.tolist()
    return result
