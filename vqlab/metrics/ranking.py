"""How positives and negatives interleave when sorted by score: all that the metrics need.

Every metric here depends on the order of the scores alone, never on their size, and equal scores
are passed together: a threshold lies at a score, never between equal ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Curve(NamedTuple):
    """Points of a curve, `x` not decreasing; both (n,) float64 in [0, 1]."""

    x: Array
    y: Array


@dataclass(frozen=True)
class Ranking:
    """What lies at or above every distinct score that a positive has, from the highest down.

    Between two such scores only negatives are passed: ROC and PRO curves run level there, and
    neither precision × recall steps nor the best F1 can lie there. So nothing is lost by leaving
    those thresholds out, and the work is one sort of the negatives plus one of the positives.
    """

    thresholds: Array
    """(M,) the distinct scores of positives, descending."""
    true_positives: Array
    """(M,) positives with score >= threshold."""
    false_positives: Array
    """(M,) negatives with score >= threshold."""
    above: Array
    """(M,) negatives with score > threshold; less than `false_positives` where there are ties."""
    overlap: Array
    """(M,) the share of the positives' weight at or above the threshold; the last is 1."""
    positives: int
    negatives: int


def rank(positives: Array, negatives: Array, weights: Array | None = None) -> Ranking:
    """Rank two sets of finite scores, (P,) and (N,), neither empty; `negatives` is sorted in place.

    weights (P,): how much each positive counts in `overlap`; all the same where none are given.
    """
    order = np.argsort(positives)[::-1]
    descending = positives[order]
    last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(order) - 1)
    thresholds = descending[last]
    counted = last + 1
    if weights is None:
        overlap = counted / len(order)
    else:
        overlap = np.cumsum(weights[order], dtype=np.float64)[last]
        overlap /= overlap[-1]
    negatives.sort()
    size = len(negatives)
    return Ranking(
        thresholds=thresholds,
        true_positives=counted,
        false_positives=size - np.searchsorted(negatives, thresholds, side="left"),
        above=size - np.searchsorted(negatives, thresholds, side="right"),
        overlap=overlap,
        positives=len(order),
        negatives=size,
    )


def roc_curve(ranking: Ranking) -> Curve:
    """True-positive over false-positive rate, with every corner; a tie is a slanted line."""
    return _corners(ranking, ranking.true_positives / ranking.positives)


def pro_curve(ranking: Ranking) -> Curve:
    """Mean overlap per region over false-positive rate (weights: 1 / area of a pixel's region)."""
    return _corners(ranking, ranking.overlap)


def precision_recall_curve(ranking: Ranking) -> Curve:
    """Precision (y) over recall (x) at every distinct score of a positive."""
    found = ranking.true_positives
    return Curve(found / ranking.positives, found / (found + ranking.false_positives))


def area(curve: Curve, limit: float = 1.0) -> float:
    """Area under straight lines between the points from x = 0 to `limit`, divided by `limit`.

    The line that crosses the limit counts up to it. The curve must begin at x = 0 and reach the
    limit.
    """
    left, right = curve.x[:-1], curve.x[1:]
    inside = int(np.searchsorted(left, limit, side="left"))
    left, right = left[:inside], right[:inside]
    low, high = curve.y[:inside], curve.y[1 : inside + 1]
    width = np.minimum(right, limit) - left
    share = np.divide(width, right - left, out=np.ones(inside), where=right > left)
    return float(np.sum(width * (low + 0.5 * share * (high - low))) / limit)


def average_precision(ranking: Ranking) -> float:
    """Σ (recall gained) × precision, without interpolation, as scikit-learn defines it."""
    recall, precision = precision_recall_curve(ranking)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def best_f1(ranking: Ranking) -> tuple[float, float]:
    """The highest F1 = 2·TP / (2·TP + FP + FN) and the score at or above which it flags."""
    found = ranking.true_positives
    f1 = 2 * found / (found + ranking.false_positives + ranking.positives)
    best = int(np.argmax(f1))
    return float(f1[best]), float(ranking.thresholds[best])


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


def _corners(ranking: Ranking, height: Array) -> Curve:
    """Two points per threshold: before it (level with the last) and after it (ties passed)."""
    x, y = np.empty(2 * len(height) + 2), np.empty(2 * len(height) + 2)
    x[0] = y[0] = y[1] = 0.0
    x[1:-1:2] = ranking.above / ranking.negatives
    x[2:-1:2] = ranking.false_positives / ranking.negatives
    y[3:-1:2] = height[:-1]
    y[2:-1:2] = height
    x[-1] = y[-1] = 1.0
    return Curve(x, y)
