"""Ranking metrics from groups of scores, highest first.

Every ranking metric depends only on the order of the scores. A group is either a set of equal
scores (a tie), or a histogram bin in which the order is unknown. Each metric comes with a bound on
the error that binning can cause; it is 0 if all groups are ties.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    """(G,), defective pixels or images."""
    negatives: Array
    """(G,), normal pixels or images."""
    overlap: Array
    """(G,), share of the positives in their regions' areas; sums to the number of regions."""
    tied: Array
    """(G,) bool, whether the scores of the group are all equal."""
    saturated: Array | None = None
    """(G,), share of the positives in the saturation areas of their defects, until these are
    reached; sums to the number of defects. None: no saturation areas."""
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
        place.
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
        total = len(negatives)
        above = total - np.searchsorted(negatives, scores, side="right")
        equal = total - np.searchsorted(negatives, scores, side="left") - above
        tied = np.ones(len(scores), np.bool_)
        groups = cls._with_negatives_between(counts, share, tied, above, equal, total)
        return groups, _interleave(scores, scores, scores[-1:])

    @classmethod
    def of_bins(
        cls,
        positives: Array,
        negatives: Array,
        overlap: Array,
        tied: Array,
        saturated: Array | None = None,
    ) -> tuple[Groups, Array]:
        """Group bins (B,), lowest first; also return the lowest bin of each group.

        tied: whether the scores of each bin are all equal.
        """
        bins = np.flatnonzero(positives)[::-1]
        up_to = np.cumsum(negatives)
        total = int(up_to[-1])
        groups = cls._with_negatives_between(
            positives[bins], overlap[bins], tied[bins], total - up_to[bins], negatives[bins], total
        )
        if saturated is not None:
            parts = saturated[bins]
            groups = replace(groups, saturated=_interleave(np.zeros_like(parts), parts, [0.0]))
        return groups, _interleave(bins, bins, bins[-1:])

    @classmethod
    def _with_negatives_between(
        cls, positives: Array, share: Array, tied: Array, above: Array, equal: Array, total: int
    ) -> Groups:
        """Add a group of the negatives between each two groups with positives, since no metric
        changes among them. above, equal: negatives above and in each group with positives."""
        between = np.diff(np.append(above, total), prepend=0)
        between[1:] -= equal
        none = np.zeros_like(positives)
        ties = np.ones_like(tied)
        return cls(
            positives=_interleave(none, positives, [0]),
            negatives=_interleave(between[:-1], equal, between[-1:]),
            overlap=_interleave(np.zeros_like(share), share, [0.0]),
            tied=_interleave(ties, tied, [True]),
        )

    @property
    def defined(self) -> bool:
        """Whether there are positives and negatives to rank."""
        return self.total_positives > 0 and self.total_negatives > 0

    @cached_property
    def true_positives(self) -> Array:
        """(G + 1,) float64, positives above each group, and in total."""
        return _running(self.positives)

    @cached_property
    def false_positives(self) -> Array:
        """(G + 1,) float64, negatives above each group, and in total."""
        return _running(self.negatives)

    @cached_property
    def best_f1(self) -> tuple[Estimate, int]:
        """The highest F1 = 2·TP / (2·TP + FP + FN) of flagging the first groups, and the index of
        the last flagged group.

        The value is reached exactly; the bound is the gain possible by a threshold within a bin.
        """
        last = np.flatnonzero(self.positives)
        doubled, fp = 2 * self.true_positives[last + 1], self.false_positives
        flagged = self.true_positives[last + 1] + self.total_positives
        f1 = doubled / (flagged + fp[last + 1])
        reachable = np.where(self.tied[last], f1, doubled / (flagged + fp[last]))
        best = int(f1.argmax())
        gain = max(0.0, float(reachable.max() - f1[best]))
        return Estimate(float(f1[best]), gain), int(last[best])


def auroc(groups: Groups) -> Estimate:
    """Area under the ROC curve; each group is a straight segment (half of its pairs in order)."""
    pairs = groups.total_positives * groups.total_negatives
    above = groups.true_positives[:-1]
    ordered = float((groups.negatives * (above + 0.5 * groups.positives)).sum())
    unknown = groups.positives * groups.negatives.astype(np.float64)
    return Estimate(ordered / pairs, 0.5 * float(unknown[~groups.tied].sum()) / pairs)


def aupro(groups: Groups, limit: float) -> Estimate:
    """Area under the curve of mean overlap per region against the false-positive rate, from 0 to
    `limit`, divided by `limit` (Bergmann et al., MVTec AD, IJCV 2021)."""
    stop = limit * groups.total_negatives
    inside = np.clip(stop - groups.false_positives[:-1], 0, groups.negatives)
    rise = groups.overlap
    middle = 0.5 * rise * inside / np.maximum(groups.negatives, 1)
    area = float((inside * (_running(rise)[:-1] + middle)).sum())
    unknown = inside[~groups.tied], rise[~groups.tied], middle[~groups.tied]
    down, up = ((unknown[0] * part).sum() for part in (unknown[2], unknown[1] - unknown[2]))
    whole = stop * groups.regions
    return Estimate(area / whole, float(max(down, up)) / whole)


def spro(groups: Groups, limit: float) -> Estimate:
    """As `aupro`, with the saturated overlap per defect (Bergmann et al., MVTec LOCO AD, IJCV
    2022): its marked pixels over its saturation area, at most 1."""
    assert groups.saturated is not None
    return aupro(replace(groups, overlap=groups.saturated), limit)


def average_precision(groups: Groups) -> Estimate:
    """Σ (recall gained) × precision, without interpolation; a tie is gained at its end.

    The midpoint between the lowest and the highest possible value. In a bin, the lowest has all
    negatives first and then the positives one by one: Σ_{j=1..p} (T + j) / (T + j + F)
    = p − F · Σ 1 / (T + j + F), and that sum is at most ∫ dx / (T + x + F) from ½ to p + ½, as
    1 / x is convex; the highest has the positives first, together.
    """
    having = np.flatnonzero(groups.positives)
    p, n = groups.positives[having], groups.negatives[having]
    tp, fp = groups.true_positives[having + 1], groups.false_positives[having + 1]
    tie = p * tp / (tp + fp)
    one_by_one = np.where(p > 1, p - fp * np.log1p(p / (tp + fp - p + 0.5)), tie)
    tied = groups.tied[having]
    least = float(np.where(tied, tie, np.minimum(tie, one_by_one)).sum())
    greatest = float(np.where(tied, tie, p * tp / (tp + fp - n)).sum())
    total = groups.total_positives
    return Estimate(0.5 * (least + greatest) / total, 0.5 * (greatest - least) / total)


def roc_curve(groups: Groups) -> Curve:
    """True-positive rate against false-positive rate."""
    x, y = groups.false_positives, groups.true_positives
    return _curve(x, y, groups.total_negatives, groups.total_positives)


def pro_curve(groups: Groups, limit: float) -> Curve:
    """Mean overlap per region against the false-positive rate, up to `limit`."""
    x, y = groups.false_positives, _running(groups.overlap)
    stop = limit * groups.total_negatives
    inside = int(np.searchsorted(x, stop, side="right"))
    end = float(np.interp(stop, x[inside - 1 : inside + 1], y[inside - 1 : inside + 1]))
    curve = _curve(x[:inside], y[:inside], groups.total_negatives, groups.regions)
    return Curve(np.append(curve.x, limit), np.append(curve.y, end / groups.regions))


def precision_recall_curve(groups: Groups) -> Curve:
    """Precision (y) against recall (x), with a point for every group that has a positive."""
    after = np.flatnonzero(groups.positives) + 1
    true_positives = groups.true_positives[after]
    precision = true_positives / (true_positives + groups.false_positives[after])
    return _curve(true_positives, precision, groups.total_positives, 1.0)


def _curve(x: Array, y: Array, width: float, height: float) -> Curve:
    """Return x / width and y / height, thinned to `POINTS` points evenly spaced along the curve."""
    x, y = x / width, y / height
    if len(x) > POINTS:
        length = _running(np.abs(np.diff(x)) + np.abs(np.diff(y)))
        indices = np.searchsorted(length, np.linspace(0, length[-1], POINTS)[:-1])
        indices = np.unique(np.append(indices, len(x) - 1))
        x, y = x[indices], y[indices]
    return Curve(x, y)


def _running(counts: Array) -> Array:
    """Return cumulative counts (G + 1,) float64: before each group, and in total."""
    return np.concatenate([[0.0], np.cumsum(counts, dtype=np.float64)])


def _interleave(first: Array, second: Array, end: ArrayLike) -> Array:
    return np.concatenate([np.stack([first, second], axis=1).ravel(), end])
