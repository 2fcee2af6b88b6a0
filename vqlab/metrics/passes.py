"""Compiled passes over groups of scores, from the highest down, that keep nothing but sums.

Each takes counts (G,) of `vqlab.metrics.groups.Groups`. The sums run in float64, where counts of
up to 2^53 pixels are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def pairs(positives: Any, negatives: Any, tied: Any) -> Any:
    """Pairs of a positive above a negative, half of a group's own; and those whose order is not
    known."""
    found = right = unknown = 0.0
    for g in range(len(positives)):
        own, size = np.float64(positives[g]), np.float64(negatives[g])
        right += size * (found + 0.5 * own)
        found += own
        if not tied[g]:
            unknown += own * size
    return right, unknown


@njit(cache=True, nogil=True)
def overlap_area(negatives: Any, overlap: Any, tied: Any, stop: float) -> Any:
    """Area under the overlap (summed, not divided) over the negatives passed, up to `stop` of them;
    and by how much it can be too high and too low."""
    passed = height = area = down = up = 0.0
    for g in range(len(negatives)):
        size, rise = np.float64(negatives[g]), overlap[g]
        share = 1.0  # of the group that `stop` lies in
        if passed + size > stop:
            share = (stop - passed) / size
        middle = 0.5 * share * rise
        area += share * size * (height + middle)
        if not tied[g]:
            down += share * size * middle
            up += share * size * (rise - middle)
        passed += size
        height += rise
        if passed >= stop:
            break
    return area, down, up


@njit(cache=True, nogil=True)
def precision_sums(positives: Any, negatives: Any, tied: Any) -> Any:
    """The least and the greatest that Σ (positives gained) × precision can be.

    In a bin, the least is that all negatives come first and the positives one by one:
    Σ_{j=1..p} (T + j) / (T + j + F) = p − F · Σ 1 / (T + j + F), and that sum is at most
    ∫ dx / (T + x + F) from ½ to p + ½, as 1 / x is convex; the greatest is that the positives come
    first, together. A tie is gained at its end.
    """
    found = passed = least = greatest = 0.0
    for g in range(len(positives)):
        own, size = np.float64(positives[g]), np.float64(negatives[g])
        before = found + passed + size
        found += own
        passed += size
        if own == 0:
            continue
        tie = own * found / (found + passed)
        if tied[g]:
            least += tie
            greatest += tie
            continue
        one_by_one = tie
        if own > 1:
            one_by_one = own - passed * np.log1p(own / (before + 0.5))
        least += min(tie, one_by_one)
        greatest += own * found / (found + passed - size)
    return least, greatest


@njit(cache=True, nogil=True)
def highest_f1(positives: Any, negatives: Any, tied: Any, total: float) -> Any:
    """The highest F1 of flagging the first groups, the last of these, and the highest that a
    threshold within a bin could reach. total: positives in all."""
    found = passed = best = reachable = 0.0
    last = 0
    for g in range(len(positives)):
        found += positives[g]
        first = passed
        passed += negatives[g]
        if positives[g] == 0:
            continue
        f1 = 2 * found / (found + passed + total)
        if f1 > best:
            best, last = f1, g
        if not tied[g]:
            f1 = 2 * found / (found + first + total)
        reachable = max(reachable, f1)
    return best, last, reachable


@njit(cache=True, nogil=True)
def running(counts: Any) -> Any:
    """(G + 1,) float64: how many there are before each group, and in all."""
    sums = np.empty(len(counts) + 1)
    total = sums[0] = 0.0
    for g in range(len(counts)):
        total += counts[g]
        sums[g + 1] = total
    return sums


@njit(cache=True, nogil=True)
def precisions(positives: Any, negatives: Any) -> Any:
    """Positives found (P,) and precision (P,) after each group that has a positive."""
    hits, precision = np.empty(len(positives)), np.empty(len(positives))
    count, found, passed = 0, 0.0, 0.0
    for g in range(len(positives)):
        found += positives[g]
        passed += negatives[g]
        if positives[g]:
            hits[count], precision[count] = found, found / (found + passed)
            count += 1
    return hits[:count], precision[:count]


@njit(cache=True, nogil=True)
def spread_out(x: Any, y: Any, width: float, height: float, points: int) -> Any:
    """Indices of at most `points` of a curve's points (n,), evenly along its length, both ends
    among them; x is measured in units of `width` and y in units of `height`."""
    if len(x) <= points:
        return np.arange(len(x))
    across, up, length = 1 / width, 1 / height, 0.0
    for i in range(1, len(x)):
        length += abs(x[i] - x[i - 1]) * across + abs(y[i] - y[i - 1]) * up
    chosen = np.zeros(points, np.int64)
    filled, step, gone = 1, 1, 0.0
    for i in range(1, len(x) - 1):
        gone += abs(x[i] - x[i - 1]) * across + abs(y[i] - y[i - 1]) * up
        if step < points - 1 and gone * (points - 1) >= length * step:
            chosen[filled] = i
            filled += 1
            step = int(gone * (points - 1) / length) + 1
    chosen[filled] = len(x) - 1
    return chosen[: filled + 1]
