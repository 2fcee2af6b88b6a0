"""Compiled passes over groups of scores, highest first.

Each takes counts (G,) of `vqlab.metrics.groups.Groups`. Sums are float64: exact up to 2^53 pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def pairs(positives: Any, negatives: Any, tied: Any) -> Any:
    """Count the pairs with the positive above the negative, half of those within a group; and the
    pairs whose order is unknown."""
    above = ordered = unknown = 0.0
    for g in range(len(positives)):
        p, n = np.float64(positives[g]), np.float64(negatives[g])
        ordered += n * (above + 0.5 * p)
        above += p
        if not tied[g]:
            unknown += p * n
    return ordered, unknown


@njit(cache=True, nogil=True)
def overlap_area(negatives: Any, overlap: Any, tied: Any, stop: float) -> Any:
    """Integrate the summed overlap over the false positives, up to `stop` of them; also return by
    how much the area can be too high and too low."""
    fp = height = area = down = up = 0.0
    for g in range(len(negatives)):
        n, rise = np.float64(negatives[g]), overlap[g]
        share = 1.0  # of the group that `stop` lies in
        if fp + n > stop:
            share = (stop - fp) / n
        middle = 0.5 * share * rise
        area += share * n * (height + middle)
        if not tied[g]:
            down += share * n * middle
            up += share * n * (rise - middle)
        fp += n
        height += rise
        if fp >= stop:
            break
    return area, down, up


@njit(cache=True, nogil=True)
def precision_sums(positives: Any, negatives: Any, tied: Any) -> Any:
    """The lowest and the highest possible Σ (positives gained) × precision.

    In a bin, the lowest has all negatives first and then the positives one by one:
    Σ_{j=1..p} (T + j) / (T + j + F) = p − F · Σ 1 / (T + j + F), and that sum is at most
    ∫ dx / (T + x + F) from ½ to p + ½, as 1 / x is convex; the highest has the positives first,
    together. A tie is gained at its end.
    """
    tp = fp = least = greatest = 0.0
    for g in range(len(positives)):
        p, n = np.float64(positives[g]), np.float64(negatives[g])
        before = tp + fp + n
        tp += p
        fp += n
        if p == 0:
            continue
        tie = p * tp / (tp + fp)
        if tied[g]:
            least += tie
            greatest += tie
            continue
        one_by_one = tie
        if p > 1:
            one_by_one = p - fp * np.log1p(p / (before + 0.5))
        least += min(tie, one_by_one)
        greatest += p * tp / (tp + fp - n)
    return least, greatest


@njit(cache=True, nogil=True)
def highest_f1(positives: Any, negatives: Any, tied: Any, total: float) -> Any:
    """The highest F1 of flagging the first groups, the index of the last one flagged, and the
    highest F1 that a threshold within a bin could reach. total: number of positives."""
    tp = fp = best = reachable = 0.0
    last = 0
    for g in range(len(positives)):
        tp += positives[g]
        before = fp
        fp += negatives[g]
        if positives[g] == 0:
            continue
        f1 = 2 * tp / (tp + fp + total)
        if f1 > best:
            best, last = f1, g
        if not tied[g]:
            f1 = 2 * tp / (tp + before + total)
        reachable = max(reachable, f1)
    return best, last, reachable


@njit(cache=True, nogil=True)
def running(counts: Any) -> Any:
    """Cumulative counts (G + 1,) float64: before each group, and in total."""
    sums = np.empty(len(counts) + 1)
    total = sums[0] = 0.0
    for g in range(len(counts)):
        total += counts[g]
        sums[g + 1] = total
    return sums


@njit(cache=True, nogil=True)
def precisions(positives: Any, negatives: Any) -> Any:
    """True positives (P,) and precision (P,) after each group that has a positive."""
    hits, precision = np.empty(len(positives)), np.empty(len(positives))
    count, tp, fp = 0, 0.0, 0.0
    for g in range(len(positives)):
        tp += positives[g]
        fp += negatives[g]
        if positives[g]:
            hits[count], precision[count] = tp, tp / (tp + fp)
            count += 1
    return hits[:count], precision[:count]


@njit(cache=True, nogil=True)
def spread_out(x: Any, y: Any, width: float, height: float, points: int) -> Any:
    """Indices of at most `points` of a curve's points (n,), evenly spaced along its length, both
    ends included; x is in units of `width` and y in units of `height`."""
    if len(x) <= points:
        return np.arange(len(x))
    across, up, length = 1 / width, 1 / height, 0.0
    for i in range(1, len(x)):
        length += abs(x[i] - x[i - 1]) * across + abs(y[i] - y[i - 1]) * up
    indices = np.zeros(points, np.int64)
    filled, step, distance = 1, 1, 0.0
    for i in range(1, len(x) - 1):
        distance += abs(x[i] - x[i - 1]) * across + abs(y[i] - y[i - 1]) * up
        if step < points - 1 and distance * (points - 1) >= length * step:
            indices[filled] = i
            filled += 1
            step = int(distance * (points - 1) / length) + 1
    indices[filled] = len(x) - 1
    return indices[: filled + 1]
