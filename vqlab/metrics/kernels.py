"""Compiled loop over the pixels of an anomaly map: bins of scores.

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
"""As `BITS`, for the histogram of each image."""
DOUBLINGS = 24
"""Doublings of the scale that have bins; values further out share the last one."""
SIDE = DOUBLINGS << BITS
"""Bins on each side of the centre."""
COARSE_SIDE = DOUBLINGS << COARSE_BITS
COARSE_SHIFT = BITS - COARSE_BITS
_SIDE, _LAST, _SHIFT = np.int32(SIDE), np.int32(SIDE - 1), np.int32(23 - BITS)
_ZERO, _ONE = np.float32(0), np.float32(1)
_ONE_BITS, _SIGN = np.int32(0x3F800000), np.int32(31)
_UNUSED = np.int32(2 * SIDE)


@njit(cache=True, nogil=True)
def places_of(values: Any, centre: Any, per_scale: Any, places: Any) -> None:
    """Write the bins of finite values (n,) into places (n,) int32.

    Bins are monotone in the values. centre and per_scale have the values' type.
    """
    for i in range(len(values)):
        away = np.float32((values[i] - centre) * per_scale)
        away = np.float32(away + _ZERO)  # -0 becomes the 0 that it equals
        steps = np.int32(
            np.int32(np.float32(abs(away) + _ONE).view(np.int32) - _ONE_BITS) >> _SHIFT
        )
        mirror = np.int32(away.view(np.int32) >> _SIGN)  # -1 below the centre: n becomes -1 - n
        places[i] = np.int32(_SIDE + np.int32(min(steps, _LAST) ^ mirror))


@njit(cache=True, nogil=True)
def count(values: Any, regions: Any, bins: Any, normal: Any, defective: Any, coarse: Any) -> None:
    """Count the values (h, w) of an anomaly map in bins.

    regions: labels (h', w') of a part of the map, 0 where normal, the part's first row and column,
    and the weights (regions,) of their pixels. bins: centre and scale factor. normal
    (2·SIDE + 1,) int64: normal pixels; the last one is unused. defective (2·SIDE, 2) float64:
    defective pixels and their weights. coarse (3, 2·COARSE_SIDE): the image's normal and defective
    pixels and weights; (3, 0) to skip them.
    """
    labels, top, left, weights = regions
    places = np.empty(values.shape[1], np.int32)
    for row in range(len(values)):
        places_of(values[row], bins[0], bins[1], places)
        if coarse.shape[1]:
            for i in range(len(places)):
                coarse[0, np.uint32(places[i] >> COARSE_SHIFT)] += 1
        if top <= row < top + len(labels):
            for column in range(labels.shape[1]):
                label = labels[row - top, column]
                if label:
                    place, weight = places[left + column], weights[label - 1]
                    defective[place, 0] += 1
                    defective[place, 1] += weight
                    if coarse.shape[1]:
                        coarse[0, place >> COARSE_SHIFT] -= 1
                        coarse[1, place >> COARSE_SHIFT] += 1
                        coarse[2, place >> COARSE_SHIFT] += weight
                    places[left + column] = _UNUSED
        for i in range(len(places)):
            normal[np.uint32(places[i])] += 1
