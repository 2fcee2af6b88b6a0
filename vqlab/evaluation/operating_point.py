"""Errors of an image threshold: rejected normal images and escaped defects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vqlab.evaluation.calibration import CalibrationScores
from vqlab.metrics import Count, Interval, rate_interval


@dataclass(frozen=True)
class OperatingPoint:
    """An image threshold and its errors on images with known labels."""

    threshold: float
    rejects: Count | None
    """Held-out normal images above the threshold; None without their scores."""
    escapes: Count | None
    """Images with known defects that do not exceed it; None without their scores."""

    @property
    def reject_interval(self) -> Interval | None:
        """95 % interval of the false-reject rate (Clopper and Pearson)."""
        return rate_interval([self.rejects]) if self.rejects else None

    @property
    def escape_interval(self) -> Interval | None:
        """95 % interval of the escape rate (Clopper and Pearson)."""
        return rate_interval([self.escapes]) if self.escapes else None


def operating_point(
    threshold: float, normals: CalibrationScores | None, defects: Sequence[float]
) -> OperatingPoint:
    """Return the errors of an image threshold.

    normals: scores of held-out normal images. defects: scores of images with known defects.
    """
    rejects = None if normals is None else Count(count_above(normals, threshold), normals.count)
    escaped = sum(score <= threshold for score in defects)
    return OperatingPoint(threshold, rejects, Count(escaped, len(defects)) if defects else None)


def count_above(normals: CalibrationScores, threshold: float) -> int:
    """Return the number of normal images above a threshold; an upper bound if not all scores are
    stored (`CalibrationScores.exact`)."""
    above = normals.p_value(math.nextafter(threshold, math.inf))
    return round(above * (normals.count + 1)) - 1
