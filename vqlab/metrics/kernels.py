"""Compiled loops over pixels: bins of scores, regions of masks.

The bins are fixed by a centre and a scale, not by a range: |value − centre| in units of the scale
is placed by the bits of 1 + it as a float32, which grow like its logarithm in straight pieces. So
bins are even near the centre and widen with the distance from it, and any finite value has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BITS = 15
"""A bin is at most 2^-15 of (distance from the centre + scale) wide."""
OWN_BITS = 6
"""Likewise for the histogram kept of each image."""
DOUBLINGS = 24
"""How many doublings of the scale have bins; what lies further out shares the last one."""
SIDE = DOUBLINGS << BITS
"""Bins on either side of the centre."""
OWN_SIDE = DOUBLINGS << OWN_BITS
_SIDE, _LAST, _SHIFT = np.int32(SIDE), np.int32(SIDE - 1), np.int32(23 - BITS)
_ZERO, _ONE = np.float32(0), np.float32(1)
_ONE_BITS, _SIGN = np.int32(0x3F800000), np.int32(31)
_CHUNK = 512
_NORMAL, _DEFECTIVE = np.uint64(0), np.uint64(0x0101010101010101)
"""Eight pixels of a mask."""
_STEP, _NOWHERE = np.uint16(1), np.int32(2 * SIDE)


@njit(cache=True, nogil=True)
def places_of(values: Any, centre: Any, per_scale: Any, places: Any) -> Any:
    """Bins of values (n,) into places (n,) int32; how many values are NaN or infinite.

    Bins never fall where values rise. centre and per_scale are of the values' type.
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
    values: Any,
    runs: Any,
    weights: Any,
    centre: Any,
    per_scale: Any,
    threshold: Any,
    counts: Any,
    carries: Any,
    span: Any,
    defective: Any,
    shares: Any,
    own: Any,
) -> Any:
    """Count the values (h, w): those outside of all runs in the bins of `counts`; of those in runs
    the bins go into defective (pixels,) int32, and their regions' weights into shares (pixels,).

    Returns how many values are NaN or infinite; how many are above the threshold; and of these, how
    many are in runs and the sum of their weights.
    runs (R, 4) see `cut_runs`; weights (regions,). counts (2·SIDE + 1,) uint16, the last one for
    nothing; carries, likewise: how often these went beyond 16 bits, which hardly happens, so that
    what is in use stays in the cache. span (2,): the lowest and the highest bin in use, widened to
    what is counted. own (3, 2·OWN_SIDE): the image's own normal and defective pixels and weights,
    or empty where they are not kept.
    """
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
        if own.shape[1]:
            for i in range(len(line)):
                own[0, np.uint32(places[i] >> (BITS - OWN_BITS))] += 1
        while r < len(runs) and runs[r, 0] == row:
            weight = weights[runs[r, 3]]
            for i in range(runs[r, 1], runs[r, 2]):
                defective[n], shares[n] = places[i], weight
                hits += line[i] > threshold
                overlap += weight * (line[i] > threshold)
                if own.shape[1]:
                    place = np.uint32(places[i] >> (BITS - OWN_BITS))
                    own[0, place] -= 1
                    own[1, place] += 1
                    own[2, place] += weight
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
    """Take the values (n,) out of counts and carries again."""
    places = np.empty(len(values), np.int32)
    places_of(values, centre, per_scale, places)
    for i in range(len(values)):
        place = np.uint32(places[i])
        if counts[place] == 0:
            carries[place] -= 1
        counts[place] -= _STEP


@njit(cache=True, nogil=True)
def weigh(places: Any, weights: Any, first: int, table: Any) -> int:
    """Count pixels of bins (n,) with weights (n,) in the rows of a table (bins, 2), whose first is
    that of the bin `first`; how many rows were empty before."""
    opened = 0
    for i in range(len(places)):
        row = np.uint32(places[i] - first)
        opened += table[row, 0] == 0
        table[row, 0] += 1
        table[row, 1] += weights[i]
    return opened


@njit(cache=True, nogil=True)
def least_of(place: int, centre: Any, per_scale: Any, low: Any, high: Any) -> Any:
    """The least value of a bin, by halving what lies between low and high."""
    value, found = np.array([low]), np.empty(1, np.int32)
    while True:
        value[0] = low / 2 + high / 2
        if not low < value[0] < high:
            return high
        places_of(value, centre, per_scale, found)
        if found[0] >= place:
            high = value[0]
        else:
            low = value[0]


@njit(cache=True, nogil=True)
def gather(counts: Any, carries: Any, defects: Any, held: int, tied: Any) -> Any:
    """Groups (G,) of what is in the bins, see `vqlab.metrics.groups.Groups`: each bin with
    positives is one, and the negatives between two of them are one; the highest first.

    held: how many bins have positives. tied: of each bin whether its scores are all equal; empty
    where that is not known of any.
    Returns positives, negatives, overlap, tied, and the highest bin of each group.
    """
    size = 2 * held + 1
    found, passed = np.empty(size, np.int64), np.empty(size, np.int64)
    share, ties = np.empty(size), np.empty(size, np.bool_)
    places = np.empty(size, np.int32)
    g, between, highest = 0, np.int64(0), 0
    for i in range(len(defects) - 1, -2, -1):
        gains = i >= 0 and defects[i, 0] > 0
        if (gains or i < 0) and between:
            found[g], passed[g], share[g], ties[g], places[g] = 0, between, 0.0, True, highest
            g, between = g + 1, np.int64(0)
        if i < 0:
            break
        own = (np.int64(carries[i]) << 16) + counts[i]
        if gains:
            found[g], passed[g] = np.int64(defects[i, 0]), own
            share[g], ties[g], places[g] = defects[i, 1], len(tied) > 0 and tied[i], i
            g += 1
        elif own:
            highest = highest if between else i
            between += own
    return found[:g], passed[:g], share[:g], ties[:g], places[:g]


@njit(cache=True, nogil=True)
def extend(values: Any, centre: Any, per_scale: Any, low: Any, high: Any) -> None:
    """The smallest and the largest value (n,) seen in each bin; low > high where there is none."""
    places = np.empty(_CHUNK, np.int32)
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        places_of(part, centre, per_scale, places)
        for i in range(len(part)):
            place = np.uint32(places[i])
            low[place] = min(low[place], part[i])
            high[place] = max(high[place], part[i])


@njit(cache=True, nogil=True)
def turns(line: Any) -> Any:
    """Where a mask read as one line (n,) uint8 of 0 and 1 becomes defective and normal again, in
    turns; n where it ends defective."""
    found = np.empty(64, np.int64)
    words = line[: len(line) // 8 * 8].view(np.uint64)
    count, i, now, alike = 0, 0, np.uint8(0), _NORMAL
    while i < len(line):
        word = i // 8
        if i % 8 == 0:
            while word < len(words) and words[word] == alike:
                word += 1
            i = 8 * word
        end = min(8 * word + 8, len(line))
        while i < end and line[i] == now:
            i += 1
        if i < end:
            if count + 2 > len(found):
                found = np.concatenate((found, found))
            found[count] = i
            count, now = count + 1, np.uint8(1 - now)
            alike = _DEFECTIVE if now else _NORMAL
    if now:
        found[count] = len(line)
        count += 1
    return found[:count]


@njit(cache=True, nogil=True)
def cut_runs(starts: Any, ends: Any, width: int) -> Any:
    """Runs of a mask read as one line, cut at the ends of its rows: (R, 4) int32 of row, start,
    end (not included) and the run's own number."""
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
    """Put the number of its 8-connected region in place of each run's own (R, 4), and return the
    regions' areas (regions,). Union-find; a parent never comes after its child."""
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
