"""Metrics from groups of scores: how positives and negatives follow each other, from the top down.

Every metric depends on the order of the scores alone. A group is either a set of equal scores (a
tie, passed as one), or a bin: scores whose order among themselves was not kept. For a bin each
metric here has a least and a greatest value, whatever that order was; so every metric comes with a
bound that holds exactly, and is 0 where all groups are ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqlab.metrics import passes

Array = NDArray[Any]
POINTS = 500
"""A curve has no more points than these, evenly along its length; both ends are among them."""


class Curve(NamedTuple):
    """Points of a curve, `x` not decreasing; both (n,) float64 in [0, 1]."""

    x: Array
    y: Array


class Estimate(NamedTuple):
    """A metric, and how far the value of the unbinned scores can be from it."""

    value: float
    bound: float


@dataclass(frozen=True)
class Groups:
    """G groups, the highest first; no score of a group is above one of an earlier group."""

    positives: Array
    """(G,) int64 pixels or images that are defective."""
    negatives: Array
    """(G,) int64 those that are not."""
    overlap: Array
    """(G,) float64 the positives' share of their regions' areas; sums to the number of regions."""
    tied: Array
    """(G,) bool: the scores of the group are all equal."""

    @property
    def defined(self) -> bool:
        """There are positives and negatives to rank."""
        return self.hits > 0 and self.normals > 0

    @cached_property
    def hits(self) -> float:
        """Positives in all."""
        return float(self.positives.sum())

    @cached_property
    def normals(self) -> float:
        """Negatives in all."""
        return float(self.negatives.sum())

    @cached_property
    def regions(self) -> float:
        """Regions in all."""
        return float(self.overlap.sum())

    @cached_property
    def found(self) -> Array:
        """(G + 1,) float64 positives before each group, and in all."""
        return np.asarray(passes.running(self.positives))

    @cached_property
    def passed(self) -> Array:
        """(G + 1,) float64 negatives likewise."""
        return np.asarray(passes.running(self.negatives))


def auroc(groups: Groups) -> Estimate:
    """Area under the ROC curve, a group passed as a straight line (half of its pairs right)."""
    right, unknown = passes.pairs(groups.positives, groups.negatives, groups.tied)
    pairs = groups.hits * groups.normals
    return Estimate(right / pairs, 0.5 * unknown / pairs)


def aupro(groups: Groups, limit: float) -> Estimate:
    """Area under the curve of mean overlap per region over the false-positive rate, from 0 to
    `limit`, divided by it (Bergmann et al., MVTec AD, IJCV 2021)."""
    stop = limit * groups.normals
    area, down, up = passes.overlap_area(groups.negatives, groups.overlap, groups.tied, stop)
    whole = stop * groups.regions
    return Estimate(area / whole, max(down, up) / whole)


def average_precision(groups: Groups) -> Estimate:
    """Σ (recall gained) × precision, without interpolation; a tie is gained at its end.

    In the middle of the least and the greatest that it can be.
    """
    least, greatest = passes.precision_sums(groups.positives, groups.negatives, groups.tied)
    return Estimate(0.5 * (least + greatest) / groups.hits, 0.5 * (greatest - least) / groups.hits)


def best_f1(groups: Groups) -> tuple[Estimate, int]:
    """The highest F1 = 2·TP / (2·TP + FP + FN) of flagging the first groups, and the last flagged.

    It is reached exactly; the bound is by how much a threshold within a bin could be better.
    """
    best, last, reachable = passes.highest_f1(
        groups.positives, groups.negatives, groups.tied, groups.hits
    )
    return Estimate(best, max(0.0, reachable - best)), last


def roc_curve(groups: Groups) -> Curve:
    """True-positive over false-positive rate."""
    return _curve(groups.passed, groups.found, groups.normals, groups.hits)


def pro_curve(groups: Groups, limit: float) -> Curve:
    """Mean overlap per region over the false-positive rate, up to `limit`."""
    passed, covered = groups.passed, passes.running(groups.overlap)
    stop = limit * groups.normals
    inside = int(np.searchsorted(passed, stop, side="right"))
    end = float(np.interp(stop, passed[inside - 1 : inside + 1], covered[inside - 1 : inside + 1]))
    curve = _curve(passed[:inside], covered[:inside], groups.normals, groups.regions)
    return Curve(np.append(curve.x, limit), np.append(curve.y, end / groups.regions))


def precision_recall_curve(groups: Groups) -> Curve:
    """Precision (y) over recall (x), a point for every group with a positive."""
    found, precision = passes.precisions(groups.positives, groups.negatives)
    return _curve(found, precision, groups.hits, 1.0)


def _curve(x: Array, y: Array, width: float, height: float) -> Curve:
    """x / width and y / height: `POINTS` of the points where there are more."""
    chosen = passes.spread_out(x, y, width, height, POINTS)
    return Curve(x[chosen] / width, y[chosen] / height)
