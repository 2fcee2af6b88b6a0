"""Compiled loop of `vqlab.nn.nearest`: discard codes by a lower bound, compare the others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

CHUNK = 64
"""Bounds whose minimum is compared at once."""
FAST = {"reassoc", "contract", "nsz", "nnan"}
"""Lets sums and minima use vector instructions."""


@njit(cache=True, nogil=True, fastmath=FAST)
def _square_distance(a: Any, b: Any) -> Any:
    total = np.float32(0)
    for k in range(len(a)):
        difference = a[k] - b[k]
        total += difference * difference
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def _minimum(values: Any) -> Any:
    lowest = values[0]
    for k in range(1, len(values)):
        lowest = min(lowest, values[k])
    return lowest


@njit(cache=True, nogil=True, fastmath=FAST)
def refine(
    bounds: Any, offsets: Any, rows: Any, table: Any, row_norms: Any, norms: Any,
    row_middles: Any, middles: Any, index: Any,
) -> None:  # fmt: skip
    """Replace index (n,), a guess, by the nearest of the codes `table` (K, D) of rows (n, D).

    bounds (n, K) + offsets (n,): lower bounds of the squared distances, from leading coordinates
    and the norms of the others, row_norms (n,) and norms (K,). row_middles (n, M), middles (K, M):
    further coordinates, whose distance replaces that of the norms in a second, tighter bound. Of
    equal distances the lowest index wins. All float32, index int64.
    """
    count = bounds.shape[1]
    for i in range(len(bounds)):
        row, place = rows[i], index[i]
        best = _square_distance(row, table[place])
        limit = best - offsets[i]
        for start in range(0, count, CHUNK):
            chunk = bounds[i, start : start + CHUNK]
            if _minimum(chunk) > limit:
                continue
            for k in range(len(chunk)):
                if chunk[k] > limit:
                    continue
                code = start + k
                gap = row_norms[i] - norms[code]
                middle = _square_distance(row_middles[i], middles[code])
                if chunk[k] - gap * gap + middle > limit:
                    continue
                distance = _square_distance(row, table[code])
                if distance < best or (distance == best and code < place):
                    best, place = distance, code
                    limit = best - offsets[i]
        index[i] = place
