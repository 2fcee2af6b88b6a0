"""Metrics from groups of scores: how positives and negatives follow each other, from the top down.

Every metric depends on the order of the scores alone. A group is either a set of equal scores (a
tie, passed as one), or a bin: scores whose order among themselves was not kept. For a bin each
metric here has a least and a greatest value, whatever that order was; so every metric comes with a
bound that holds exactly, and is 0 where all groups are ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

Array = NDArray[Any]


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
        return bool(self.positives.any() and self.negatives.any())


def auroc(groups: Groups) -> Estimate:
    """Area under the ROC curve, a group passed as a straight line (half of its pairs right)."""
    found, size = groups.positives, groups.negatives
    pairs = float(found.sum()) * float(size.sum())
    before = np.cumsum(found) - found
    area = float(np.dot(size.astype(np.float64), before + 0.5 * found)) / pairs
    loose = ~groups.tied
    unknown = np.dot(found[loose].astype(np.float64), size[loose].astype(np.float64))
    return Estimate(area, 0.5 * float(unknown) / pairs)


def aupro(groups: Groups, limit: float) -> Estimate:
    """Area under the curve of mean overlap per region over the false-positive rate, from 0 to
    `limit`, divided by it (Bergmann et al., MVTec AD, IJCV 2021)."""
    rate = np.cumsum(groups.negatives) / groups.negatives.sum()
    height = np.cumsum(groups.overlap) / groups.overlap.sum()
    inside = int(np.searchsorted(rate, limit, side="left")) + 1
    right, top = rate[:inside], height[:inside]
    left = np.concatenate([[0.0], right[:-1]])
    base = np.concatenate([[0.0], top[:-1]])
    width = np.minimum(right, limit) - left
    share = np.divide(width, right - left, out=np.ones(len(right)), where=right > left)
    value = float(np.sum(width * (base + 0.5 * share * (top - base)))) / limit
    loose = ~groups.tied[:inside]
    rise = (width * (top - base))[loose]
    below = 0.5 * float(np.dot(rise, share[loose])) / limit
    return Estimate(value, max(below, float(rise.sum()) / limit - below))


def average_precision(groups: Groups) -> Estimate:
    """Σ (recall gained) × precision, without interpolation; a tie is gained at its end.

    Of a bin, the least is that all negatives came first and the positives one by one, the greatest
    that the positives came first, together; the value is the middle.
    """
    gains = groups.positives > 0
    found, size = (a[gains].astype(np.float64) for a in (groups.positives, groups.negatives))
    total = float(found.sum())
    before = np.cumsum(found) - found
    passed = np.cumsum(groups.negatives)[gains].astype(np.float64)
    tie = found * (before + found) / (before + found + passed)
    high = found * (before + found) / (before + found + (passed - size))
    # Σ_{j=1..p} (T + j) / (T + j + F) = p − F · (ψ(T + p + F + 1) − ψ(T + F + 1))
    start = before + passed
    low = found - passed * (digamma(start + found + 1) - digamma(start + 1))
    one = (found == 1) | groups.tied[gains]
    low = np.where(one, tie, np.minimum(low, tie))
    high = np.where(groups.tied[gains], tie, high)
    least, greatest = float(low.sum()) / total, float(high.sum()) / total
    return Estimate(0.5 * (least + greatest), 0.5 * (greatest - least))


def best_f1(groups: Groups) -> tuple[Estimate, int]:
    """The highest F1 = 2·TP / (2·TP + FP + FN) of flagging the first groups, and the last flagged.

    It is reached exactly; the bound is by how much a threshold within a bin could be better.
    """
    found, passed = np.cumsum(groups.positives), np.cumsum(groups.negatives)
    total = int(found[-1])
    f1 = 2 * found / (found + passed + total)
    best = int(np.argmax(f1))
    first = np.where(groups.tied, passed, passed - groups.negatives)
    highest = float(np.max(2 * found / (found + first + total)))
    value = float(f1[best])
    return Estimate(value, max(0.0, highest - value)), best


def roc_curve(groups: Groups) -> Curve:
    """True-positive over false-positive rate."""
    return _from_origin(groups.negatives, groups.positives)


def pro_curve(groups: Groups, limit: float) -> Curve:
    """Mean overlap per region over the false-positive rate, up to `limit`."""
    curve = _from_origin(groups.negatives, groups.overlap)
    inside = int(np.searchsorted(curve.x, limit, side="right"))
    end = float(np.interp(limit, curve.x[inside - 1 :], curve.y[inside - 1 :]))
    return Curve(np.append(curve.x[:inside], limit), np.append(curve.y[:inside], end))


def precision_recall_curve(groups: Groups) -> Curve:
    """Precision (y) over recall (x), a point for every group with a positive."""
    gains = groups.positives > 0
    found, passed = np.cumsum(groups.positives)[gains], np.cumsum(groups.negatives)[gains]
    return Curve(found / found[-1], found / (found + passed))


def thin(curve: Curve, points: int = 500) -> Curve:
    """At most `points` of a curve's points, evenly along its length; both ends stay."""
    if len(curve.x) <= points:
        return curve
    steps = np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y))
    length = np.concatenate([[0.0], np.cumsum(steps)])
    wanted = np.linspace(0.0, length[-1], points)
    chosen = np.unique(np.minimum(np.searchsorted(length, wanted), len(length) - 1))
    chosen[[0, -1]] = 0, len(length) - 1
    return Curve(curve.x[chosen], curve.y[chosen])


def _from_origin(across: Array, up: Array) -> Curve:
    x, y = np.cumsum(across, dtype=np.float64), np.cumsum(up, dtype=np.float64)
    return Curve(np.append(0.0, x / x[-1]), np.append(0.0, y / y[-1]))
