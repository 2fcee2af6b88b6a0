"""Ranking metrics from groups of scores, highest first.

Every ranking metric depends only on the order of the scores. A group is either a set of equal
scores (a tie), or a histogram bin in which the order is unknown. Each metric comes with a bound on
the error that binning can cause; it is 0 if all groups are ties.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqlab.metrics import passes

Array = NDArray[Any]
POINTS = 500
"""Maximum number of points of a curve, evenly spaced along its length, both ends included."""


class Curve(NamedTuple):
    """Points of a curve, `x` not decreasing; both (n,) float64 in [0, 1]."""

    x: Array
    y: Array


class Estimate(NamedTuple):
    """A metric, and how far the value of the unbinned scores can be from it."""

    value: float
    bound: float


@dataclass(eq=False)
class Groups:
    """G groups, highest first; no score of a group is above one of an earlier group."""

    positives: Array
    """(G,) int64, defective pixels or images."""
    negatives: Array
    """(G,) int64, normal pixels or images."""
    overlap: Array
    """(G,) float64, share of the positives in their regions' areas; sums to the number of
    regions."""
    tied: Array
    """(G,) bool, whether the scores of the group are all equal."""
    total_positives: float = field(init=False)
    total_negatives: float = field(init=False)
    regions: float = field(init=False)
    """Number of regions."""

    def __post_init__(self) -> None:
        self.total_positives = float(self.positives.sum())
        self.total_negatives = float(self.negatives.sum())
        self.regions = float(self.overlap.sum())

    @classmethod
    def of_scores(
        cls, positives: Array, negatives: Array, overlap: Array | None = None
    ) -> tuple[Groups, Array]:
        """Group equal scores (P,) and (N,), P > 0; also return the lowest score of each group.

        overlap (P,): share of each positive in its region's area; default 1. Sorts `negatives` in
        place. Negatives between two scores of positives form one group, since no metric changes
        among them; that group's lowest score is that of the positives below.
        """
        order = np.argsort(positives)[::-1]
        descending = positives[order]
        last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(order) - 1)
        scores = descending[last]
        counts = np.diff(last, prepend=-1)
        share = counts.astype(np.float64)
        if overlap is not None:
            share = np.diff(np.cumsum(overlap[order], dtype=np.float64)[last], prepend=0.0)
        negatives.sort()
        below = len(negatives) - np.searchsorted(negatives, scores, side="right")
        level = len(negatives) - np.searchsorted(negatives, scores, side="left")
        none = np.zeros_like(counts)
        between = np.diff(np.append(below, len(negatives)), prepend=0)
        between[1:] -= level - below
        groups = cls(
            positives=_interleave(none, counts, none[:1]),
            negatives=_interleave(between[:-1], level - below, between[-1:]),
            overlap=_interleave(none.astype(np.float64), share, np.zeros(1)),
            tied=np.ones(2 * len(scores) + 1, np.bool_),
        )
        return groups, _interleave(scores, scores, scores[-1:])

    @property
    def defined(self) -> bool:
        """Whether there are positives and negatives to rank."""
        return self.total_positives > 0 and self.total_negatives > 0

    @cached_property
    def true_positives(self) -> Array:
        """(G + 1,) float64, positives above each group, and in total."""
        return np.asarray(passes.running(self.positives))

    @cached_property
    def false_positives(self) -> Array:
        """(G + 1,) float64, negatives above each group, and in total."""
        return np.asarray(passes.running(self.negatives))

    @cached_property
    def best_f1(self) -> tuple[Estimate, int]:
        """The highest F1 = 2·TP / (2·TP + FP + FN) of flagging the first groups, and the index of
        the last flagged group.

        The value is reached exactly; the bound is the gain possible by a threshold within a bin.
        """
        best, last, reachable = passes.highest_f1(
            self.positives, self.negatives, self.tied, self.total_positives
        )
        return Estimate(best, max(0.0, reachable - best)), last


def auroc(groups: Groups) -> Estimate:
    """Area under the ROC curve; each group is a straight segment (half of its pairs in order)."""
    ordered, unknown = passes.pairs(groups.positives, groups.negatives, groups.tied)
    pairs = groups.total_positives * groups.total_negatives
    return Estimate(ordered / pairs, 0.5 * unknown / pairs)


def aupro(groups: Groups, limit: float) -> Estimate:
    """Area under the curve of mean overlap per region over the false-positive rate, from 0 to
    `limit`, divided by it (Bergmann et al., MVTec AD, IJCV 2021)."""
    stop = limit * groups.total_negatives
    area, down, up = passes.overlap_area(groups.negatives, groups.overlap, groups.tied, stop)
    whole = stop * groups.regions
    return Estimate(area / whole, max(down, up) / whole)


def average_precision(groups: Groups) -> Estimate:
    """Σ (recall gained) × precision, without interpolation; a tie is gained at its end.

    The midpoint between the lowest and the highest possible value.
    """
    least, greatest = passes.precision_sums(groups.positives, groups.negatives, groups.tied)
    total = groups.total_positives
    return Estimate(0.5 * (least + greatest) / total, 0.5 * (greatest - least) / total)


def roc_curve(groups: Groups) -> Curve:
    """True-positive rate over false-positive rate."""
    return _curve(
        groups.false_positives,
        groups.true_positives,
        groups.total_negatives,
        groups.total_positives,
    )


def pro_curve(groups: Groups, limit: float) -> Curve:
    """Mean overlap per region over the false-positive rate, up to `limit`."""
    x, y = groups.false_positives, passes.running(groups.overlap)
    stop = limit * groups.total_negatives
    inside = int(np.searchsorted(x, stop, side="right"))
    end = float(np.interp(stop, x[inside - 1 : inside + 1], y[inside - 1 : inside + 1]))
    curve = _curve(x[:inside], y[:inside], groups.total_negatives, groups.regions)
    return Curve(np.append(curve.x, limit), np.append(curve.y, end / groups.regions))


def precision_recall_curve(groups: Groups) -> Curve:
    """Precision (y) over recall (x), a point for every group with a positive."""
    true_positives, precision = passes.precisions(groups.positives, groups.negatives)
    return _curve(true_positives, precision, groups.total_positives, 1.0)


def _curve(x: Array, y: Array, width: float, height: float) -> Curve:
    """Return x / width and y / height, thinned to `POINTS` points."""
    indices = passes.spread_out(x, y, width, height, POINTS)
    return Curve(x[indices] / width, y[indices] / height)


def _interleave(first: Array, second: Array, end: Array) -> Array:
    return np.concatenate([np.stack([first, second], axis=1).ravel(), end])
