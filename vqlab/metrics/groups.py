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
        return bool(len(self.tied) and self.found[-1] and self.passed[-1])

    @cached_property
    def found(self) -> Array:
        """(G,) float64 positives of this and the earlier groups."""
        return np.cumsum(self.positives, dtype=np.float64)

    @cached_property
    def passed(self) -> Array:
        """(G,) float64 negatives likewise."""
        return np.cumsum(self.negatives, dtype=np.float64)

    @cached_property
    def height(self) -> Array:
        """(G,) mean overlap per region of flagging this and the earlier groups; the last is 1."""
        covered = np.cumsum(self.overlap)
        covered /= covered[-1]
        return covered

    def compact(self) -> tuple[Groups, Array]:
        """The same with neighbours that hold no positive as one: no metric changes among them.

        And of each new group the first of the old ones.
        """
        gains = self.positives > 0
        starts = gains.copy()
        starts[0] = True
        starts[1:] |= gains[:-1]
        first = np.flatnonzero(starts)
        groups = Groups(
            np.add.reduceat(self.positives, first),
            np.add.reduceat(self.negatives, first),
            np.add.reduceat(self.overlap, first),
            self.tied[first] | ~gains[first],
        )
        return groups, first


def auroc(groups: Groups) -> Estimate:
    """Area under the ROC curve, a group passed as a straight line (half of its pairs right)."""
    found, size = groups.positives, groups.negatives
    pairs = float(groups.found[-1] * groups.passed[-1])
    area = float(np.dot(size, groups.found - 0.5 * found)) / pairs
    unknown = np.dot(found.astype(np.float64), np.where(groups.tied, 0, size))
    return Estimate(area, 0.5 * float(unknown) / pairs)


def aupro(groups: Groups, limit: float) -> Estimate:
    """Area under the curve of mean overlap per region over the false-positive rate, from 0 to
    `limit`, divided by it (Bergmann et al., MVTec AD, IJCV 2021)."""
    inside = int(np.searchsorted(groups.passed, limit * groups.passed[-1], side="left")) + 1
    right, top = groups.passed[:inside] / groups.passed[-1], groups.height[:inside]
    width, rise = np.diff(right, prepend=0.0), np.diff(top, prepend=0.0)
    share = np.ones(inside)
    last = inside - 1  # the group that the limit lies in is passed in part
    if right[last] > limit:
        share[last] = 1 - (right[last] - limit) / width[last]
        width[last] *= share[last]
    value = float(np.dot(width, top - rise + 0.5 * share * rise)) / limit
    loose = np.where(groups.tied[:inside], 0, width * rise)
    below = 0.5 * float(np.dot(loose, share)) / limit
    return Estimate(value, max(below, float(loose.sum()) / limit - below))


def average_precision(groups: Groups) -> Estimate:
    """Σ (recall gained) × precision, without interpolation; a tie is gained at its end.

    Of a bin, the least is that all negatives came first and the positives one by one, the greatest
    that the positives came first, together; the value is the middle.
    """
    gains = np.flatnonzero(groups.positives)
    found, passed = groups.found[gains], groups.passed[gains]
    own, size = groups.positives[gains].astype(np.float64), groups.negatives[gains]
    tie = own * found / (found + passed)
    tied = groups.tied[gains]
    high = np.where(tied, tie, own * found / (found + passed - size))
    low = tie.copy()
    several = np.flatnonzero((own > 1) & ~tied)
    # Σ_{j=1..p} (T + j) / (T + j + F) = p − F · (ψ(T + p + F + 1) − ψ(T + F + 1))
    end = (found + passed)[several] + 1
    tail = digamma(end) - digamma(end - own[several])
    low[several] = np.minimum(tie[several], own[several] - passed[several] * tail)
    least, greatest = float(low.sum()), float(high.sum())
    total = float(groups.found[-1])
    return Estimate(0.5 * (least + greatest) / total, 0.5 * (greatest - least) / total)


def best_f1(groups: Groups) -> tuple[Estimate, int]:
    """The highest F1 = 2·TP / (2·TP + FP + FN) of flagging the first groups, and the last flagged.

    It is reached exactly; the bound is by how much a threshold within a bin could be better.
    """
    found, passed = groups.found, groups.passed
    twice, total = 2 * found, found + found[-1]
    f1 = twice / (total + passed)
    best = int(np.argmax(f1))
    first = np.where(groups.tied, passed, passed - groups.negatives)
    highest = float(np.max(twice / (total + first)))
    value = float(f1[best])
    return Estimate(value, max(0.0, highest - value)), best


def roc_curve(groups: Groups) -> Curve:
    """True-positive over false-positive rate."""
    return _from_origin(groups, groups.found / groups.found[-1])


def pro_curve(groups: Groups, limit: float) -> Curve:
    """Mean overlap per region over the false-positive rate, up to `limit`."""
    curve = _from_origin(groups, groups.height)
    inside = int(np.searchsorted(curve.x, limit, side="right"))
    end = float(np.interp(limit, curve.x[inside - 1 :], curve.y[inside - 1 :]))
    return Curve(np.append(curve.x[:inside], limit), np.append(curve.y[:inside], end))


def precision_recall_curve(groups: Groups) -> Curve:
    """Precision (y) over recall (x), a point for every group with a positive."""
    gains = np.flatnonzero(groups.positives)
    found, passed = groups.found[gains], groups.passed[gains]
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


def _from_origin(groups: Groups, height: Array) -> Curve:
    rate = groups.passed / groups.passed[-1]
    return Curve(np.append(0.0, rate), np.append(0.0, height))
