"""Compiled loops over pixels: bins of scores, regions of masks. Everything else here is NumPy.

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


@njit(cache=True, nogil=True)
def places_of(values: Any, centre: Any, per_scale: Any, places: Any) -> int:
    """Bins of values (n,) into places (n,) int32; how many values are NaN or infinite.

    Bins never fall where values rise. centre and per_scale are of the values' type.
    """
    bad = 0
    for i in range(len(values)):
        bad += not np.isfinite(values[i])
        away = np.float32((values[i] - centre) * per_scale)
        away = np.float32(away + _ZERO)  # -0 becomes the 0 that it equals
        steps = np.int32(
            np.int32(np.float32(abs(away) + _ONE).view(np.int32) - _ONE_BITS) >> _SHIFT
        )
        mirror = np.int32(away.view(np.int32) >> _SIGN)  # -1 below the centre: n becomes -1 - n
        places[i] = np.int32(_SIDE + np.int32(min(steps, _LAST) ^ mirror))
    return bad


@njit(cache=True, nogil=True)
def count(values: Any, centre: Any, per_scale: Any, counts: Any, own: Any, step: int) -> int:
    """Add `step` for each of the values (n,) to counts (2·SIDE,); how many are NaN or infinite.

    own (2·OWN_SIDE,): the image's own histogram, or empty where none is kept.
    """
    places = np.empty(_CHUNK, np.int32)
    bad = 0
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        bad += places_of(part, centre, per_scale, places)
        for i in range(len(part)):
            counts[np.uint32(places[i])] += step
        if len(own):
            for i in range(len(part)):
                own[np.uint32(places[i] >> (BITS - OWN_BITS))] += step
    return bad


@njit(cache=True, nogil=True)
def move(
    values: Any,
    runs: Any,
    weights: Any,
    centre: Any,
    per_scale: Any,
    negatives: Any,
    positives: Any,
    overlap: Any,
    own: Any,
) -> None:
    """Move the pixels of runs from `negatives`, where `count` put them, to `positives`.

    values (h, w); runs (R, 4) see `cut_runs`; weights (regions,) is added to `overlap` for
    every pixel of a region. own (3, 2·OWN_SIDE): the image's own three, or empty.
    """
    places = np.empty(values.shape[1], np.int32)
    for r in range(len(runs)):
        row, start, end, region = runs[r]
        places_of(values[row, start:end], centre, per_scale, places)
        for i in range(end - start):
            place = np.uint32(places[i])
            negatives[place] -= 1
            positives[place] += 1
            overlap[place] += weights[region]
            if own.shape[1]:
                place = np.uint32(places[i] >> (BITS - OWN_BITS))
                own[0, place] -= 1
                own[1, place] += 1
                own[2, place] += weights[region]


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
def flagged(values: Any, runs: Any, weights: Any, threshold: Any) -> Any:
    """Of the runs' pixels those above the threshold: how many, and the sum of their weights."""
    hits, overlap = 0, 0.0
    for r in range(len(runs)):
        row, start, end, region = runs[r]
        for x in range(start, end):
            if values[row, x] > threshold:
                hits += 1
                overlap += weights[region]
    return hits, overlap


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
