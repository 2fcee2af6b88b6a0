"""Compiled loops over pixels: bins of scores, regions of masks.

Bins are defined by a centre and a scale, not by a range. A value is placed by the float32 bits of
1 + |value − centre| / scale, a piecewise linear approximation of the logarithm. So bins are uniform
near the centre, widen with the distance from it, and hold any finite value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BITS = 15
"""The width of a bin is at most 2^-15 of (distance from the centre + scale)."""
COARSE_BITS = 6
"""The same for the histogram of each image."""
DOUBLINGS = 24
"""Doublings of the scale that have bins; values further out share the last one."""
SIDE = DOUBLINGS << BITS
"""Bins on each side of the centre."""
COARSE_SIDE = DOUBLINGS << COARSE_BITS
_SIDE, _LAST, _SHIFT = np.int32(SIDE), np.int32(SIDE - 1), np.int32(23 - BITS)
_ZERO, _ONE = np.float32(0), np.float32(1)
_ONE_BITS, _SIGN = np.int32(0x3F800000), np.int32(31)
_CHUNK = 512
_NORMAL, _DEFECTIVE = np.uint64(0), np.uint64(0x0101010101010101)
"""Eight pixels of a mask."""
_STEP, _NOWHERE = np.uint16(1), np.int32(2 * SIDE)


@njit(cache=True, nogil=True)
def places_of(values: Any, centre: Any, per_scale: Any, places: Any) -> Any:
    """Write the bins of values (n,) into places (n,) int32; return the number of NaN or infinite.

    Bins are monotone in the values. centre and per_scale have the values' type.
    """
    bad = np.int32(0)
    for i in range(len(values)):
        bad = np.int32(bad + np.int32(not np.isfinite(values[i])))
        away = np.float32((values[i] - centre) * per_scale)
        away = np.float32(away + _ZERO)  # -0 becomes the 0 that it equals
        steps = np.int32(
            np.int32(np.float32(abs(away) + _ONE).view(np.int32) - _ONE_BITS) >> _SHIFT
        )
        mirror = np.int32(away.view(np.int32) >> _SIGN)  # -1 below the centre: n becomes -1 - n
        places[i] = np.int32(_SIDE + np.int32(min(steps, _LAST) ^ mirror))
    return bad


@njit(cache=True, nogil=True)
def count(
    values: Any, regions: Any, bins: Any, threshold: Any, normal: Any, defects: Any, coarse: Any
) -> Any:
    """Count the values (h, w) of an anomaly map: normal ones in the bins of `counts`; for defective
    ones, write bins into defective (pixels,) int32 and region weights into shares (pixels,).

    regions: runs (R, 4) of defective pixels, see `cut_runs`, and weights (regions,). bins: centre
    and scale factor. normal: counts (2·SIDE + 1,) uint16, the last one unused; carries, the
    overflows of each count, which are rare, so that the working set stays in cache; and span (2,),
    lowest and highest bin in use, updated. defects: defective and shares. coarse
    (3, 2·COARSE_SIDE): the image's normal and defective pixels and weights; (3, 0) to skip them.
    Returns the number of NaN or infinite values, of values above the threshold, of defective ones
    among these, and the sum of their weights.
    """
    runs, weights = regions
    centre, per_scale = bins
    counts, carries, span = normal
    defective, shares = defects
    places = np.empty(values.shape[1], np.int32)
    bad = above = hits = r = n = 0
    overlap = 0.0
    lowest, highest = span[0], span[1]
    for row in range(len(values)):
        line = values[row]
        bad += places_of(line, centre, per_scale, places)
        higher = np.int32(0)
        for i in range(len(line)):
            higher = np.int32(higher + np.int32(line[i] > threshold))
            lowest, highest = min(lowest, places[i]), max(highest, places[i])
        above += higher
        if coarse.shape[1]:
            for i in range(len(line)):
                coarse[0, np.uint32(places[i] >> (BITS - COARSE_BITS))] += 1
        while r < len(runs) and runs[r, 0] == row:
            weight = weights[runs[r, 3]]
            for i in range(runs[r, 1], runs[r, 2]):
                defective[n], shares[n] = places[i], weight
                hits += line[i] > threshold
                overlap += weight * (line[i] > threshold)
                if coarse.shape[1]:
                    place = np.uint32(places[i] >> (BITS - COARSE_BITS))
                    coarse[0, place] -= 1
                    coarse[1, place] += 1
                    coarse[2, place] += weight
                places[i] = _NOWHERE
                n += 1
            r += 1
        for i in range(len(line)):
            place = np.uint32(places[i])
            counts[place] += _STEP
            if counts[place] == 0:
                carries[place] += 1
    span[0], span[1] = lowest, highest
    return bad, above, hits, overlap


@njit(cache=True, nogil=True)
def uncount(values: Any, centre: Any, per_scale: Any, counts: Any, carries: Any) -> None:
    """Remove the values (n,) from counts and carries."""
    places = np.empty(len(values), np.int32)
    places_of(values, centre, per_scale, places)
    for i in range(len(values)):
        place = np.uint32(places[i])
        if counts[place] == 0:
            carries[place] -= 1
        counts[place] -= _STEP


@njit(cache=True, nogil=True)
def weigh(places: Any, weights: Any, first: int, table: Any) -> int:
    """Add pixels with bins (n,) and weights (n,) to a table (bins, 2) that starts at bin `first`;
    return the number of rows that were empty."""
    opened = 0
    for i in range(len(places)):
        row = np.uint32(places[i] - first)
        opened += table[row, 0] == 0
        table[row, 0] += 1
        table[row, 1] += weights[i]
    return opened


@njit(cache=True, nogil=True)
def least_of(place: int, centre: Any, per_scale: Any, low: Any, high: Any) -> Any:
    """Return the least value of a bin, by bisection between low and high."""
    value, bins = np.array([low]), np.empty(1, np.int32)
    while True:
        value[0] = low / 2 + high / 2
        if not low < value[0] < high:
            return high
        places_of(value, centre, per_scale, bins)
        if bins[0] >= place:
            high = value[0]
        else:
            low = value[0]


@njit(cache=True, nogil=True)
def gather(counts: Any, carries: Any, defects: Any, occupied: int, tied: Any) -> Any:
    """Make groups (G,) of the bins, highest first, see `vqlab.metrics.groups.Groups`: each bin with
    positives is a group, and the negatives between two of them are one.

    defects (bins, 2): see `weigh`; occupied: number of bins with positives; tied: whether the
    scores of a bin are all equal, empty if unknown.
    Returns positives, negatives, overlap, tied, and the highest bin of each group.
    """
    size = 2 * occupied + 1
    positives, negatives = np.empty(size, np.int64), np.empty(size, np.int64)
    share, ties = np.empty(size), np.empty(size, np.bool_)
    places = np.empty(size, np.int32)
    g, between, highest = 0, np.int64(0), 0
    for i in range(len(defects) - 1, -2, -1):
        defective = i >= 0 and defects[i, 0] > 0
        if (defective or i < 0) and between:
            positives[g], negatives[g], share[g] = 0, between, 0.0
            ties[g], places[g] = True, highest
            g, between = g + 1, np.int64(0)
        if i < 0:
            break
        normal = (np.int64(carries[i]) << 16) + counts[i]
        if defective:
            positives[g], negatives[g] = np.int64(defects[i, 0]), normal
            share[g], ties[g], places[g] = defects[i, 1], len(tied) > 0 and tied[i], i
            g += 1
        elif normal:
            highest = highest if between else i
            between += normal
    return positives[:g], negatives[:g], share[:g], ties[:g], places[:g]


@njit(cache=True, nogil=True)
def extend(values: Any, centre: Any, per_scale: Any, low: Any, high: Any) -> None:
    """Update the smallest and the largest value of each bin; low > high in an empty bin."""
    places = np.empty(_CHUNK, np.int32)
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        places_of(part, centre, per_scale, places)
        for i in range(len(part)):
            place = np.uint32(places[i])
            low[place] = min(low[place], part[i])
            high[place] = max(high[place], part[i])


@njit(cache=True, nogil=True)
def transitions(line: Any) -> Any:
    """Return the starts and ends of defective runs, alternating, of a flattened mask (n,) uint8 of
    0 and 1; the last end is n if the mask ends defective."""
    ends = np.empty(64, np.int64)
    words = line[: len(line) // 8 * 8].view(np.uint64)
    count, i, current, constant = 0, 0, np.uint8(0), _NORMAL
    while i < len(line):
        word = i // 8
        if i % 8 == 0:
            while word < len(words) and words[word] == constant:
                word += 1
            i = 8 * word
        end = min(8 * word + 8, len(line))
        while i < end and line[i] == current:
            i += 1
        if i < end:
            if count + 2 > len(ends):
                ends = np.concatenate((ends, ends))
            ends[count] = i
            count, current = count + 1, np.uint8(1 - current)
            constant = _DEFECTIVE if current else _NORMAL
    if current:
        ends[count] = len(line)
        count += 1
    return ends[:count]


@njit(cache=True, nogil=True)
def cut_runs(starts: Any, ends: Any, width: int) -> Any:
    """Split the runs of a flattened mask at row ends: (R, 4) int32 of row, start, end (exclusive)
    and the run's index."""
    count = 0
    for i in range(len(starts)):
        count += (ends[i] - 1) // width - starts[i] // width + 1
    runs = np.empty((count, 4), np.int32)
    r = 0
    for i in range(len(starts)):
        start = starts[i]
        while start < ends[i]:
            row = start // width
            end = min(ends[i], (row + 1) * width)
            runs[r] = row, start - row * width, end - row * width, r
            start = end
            r += 1
    return runs


@njit(cache=True, nogil=True)
def join_runs(runs: Any) -> Any:
    """Replace the index of each run (R, 4) by that of its 8-connected region, and return the areas
    of the regions (regions,). Union-find; a parent precedes its child."""
    first = 0
    for r in range(len(runs)):
        while runs[first, 0] < runs[r, 0] - 1:
            first += 1
        other = first
        while runs[other, 0] < runs[r, 0] and runs[other, 1] <= runs[r, 2]:
            if runs[other, 2] >= runs[r, 1]:
                a, b = _root(runs, r), _root(runs, other)
                runs[max(a, b), 3] = min(a, b)
            other += 1
    regions = 0
    areas = np.zeros(len(runs), np.int64)
    for r in range(len(runs)):
        if runs[r, 3] == r:
            runs[r, 3] = regions
            regions += 1
        else:
            runs[r, 3] = runs[runs[r, 3], 3]
        areas[runs[r, 3]] += runs[r, 2] - runs[r, 1]
    return areas[:regions]


@njit(cache=True, nogil=True)
def _root(runs: Any, r: Any) -> Any:
    while runs[r, 3] != r:
        r = runs[r, 3]
    return r
