"""Compiled loop of `vqlab.nn.nearest`: discard codes by lower bounds, compare the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

TILE = 32
"""Codes whose bounds are computed at once."""
STEP = 8
"""Coordinates that are added at once; the number of leading coordinates is a multiple of it."""
FAST = {"reassoc", "contract", "nsz", "nnan"}
"""Lets sums and minima use vector instructions."""


class Codes(NamedTuple):
    """A codebook of K codes in tiles, as NumPy arrays; all but `order` are float32."""

    table: Any
    """(K, D)."""
    order: Any
    """Index into `table` of each code of the tiles, (T · TILE,), int64."""
    tiles: Any
    """Leading coordinates and the norm of the others, (T, A, TILE)."""
    middles: Any
    """Further coordinates and the norm of the rest, (T · TILE, M)."""
    squares: Any
    """Squared norm in the tiles, (T · TILE,); infinite for codes that are not searched."""


class Rows(NamedTuple):
    """N vectors in groups of consecutive ones, as NumPy arrays, float32."""

    rows: Any
    """(N, D)."""
    leading: Any
    """(N, A), as in `Codes`."""
    middles: Any
    """(N, M)."""
    radii: Any
    """Distance in the leading coordinates to the centre of the group, (N,)."""
    rounding: Any
    """By which squared bounds are lowered, (N,)."""


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
def _bounds_of(row: Any, tile: Any, squares: Any, out: Any) -> None:
    """Write half of |code|² − 2 row · code of the codes of a tile (A, TILE)."""
    for j in range(TILE):
        out[j] = np.float32(0.5) * squares[j]
    for k in range(0, len(row), STEP):
        a, b, c, d = row[k], row[k + 1], row[k + 2], row[k + 3]
        e, f, g, h = row[k + 4], row[k + 5], row[k + 6], row[k + 7]
        for j in range(TILE):  # a sum of one product at a time would be limited by memory
            out[j] -= (
                a * tile[k, j] + b * tile[k + 1, j] + c * tile[k + 2, j] + d * tile[k + 3, j]
                + e * tile[k + 4, j] + f * tile[k + 5, j] + g * tile[k + 6, j] + h * tile[k + 7, j]
            )  # fmt: skip


@njit(cache=True, nogil=True, fastmath=FAST)
def _search_tile(codes: Any, rows: Any, i: int, tile: int, halves: Any, best: Any) -> Any:
    """Return the distance² and index of the nearest code to row i of a tile and of `best`."""
    distance, place = best
    row, leading = rows.rows[i], rows.leading[i]
    start = tile * TILE
    _bounds_of(leading, codes.tiles[tile], codes.squares[start : start + TILE], halves)
    norm = np.float32(0)
    for k in range(len(leading)):
        norm += leading[k] * leading[k]
    norm -= rows.rounding[i]
    lowest = _minimum(halves)
    if 2 * lowest + norm > distance:
        return distance, place
    if place < 0:  # start with the code of the lowest bound
        for j in range(TILE):
            if halves[j] == lowest:
                place = codes.order[start + j]
                distance = _square_distance(row, codes.table[place])
                break
    for j in range(TILE):
        bound = 2 * halves[j] + norm
        if bound > distance:
            continue
        gap = leading[-1] - codes.tiles[tile, -1, j]
        middle = _square_distance(rows.middles[i], codes.middles[start + j])
        if bound - gap * gap + middle > distance:
            continue
        code = codes.order[start + j]
        exact = _square_distance(row, codes.table[code])
        if exact < distance or (exact == distance and code < place):
            distance, place = exact, code
    return distance, place


@njit(cache=True, nogil=True, fastmath=FAST)
def search_groups(bounds: Any, centres: Any, rows: Any, codes: Any, index: Any) -> None:
    """Write the nearest codes of rows, in groups of consecutive ones, to index (N,), int64.

    bounds (G, T · TILE) + centres (G,): squared distances of the codes in the tiles to the centres
    of the groups, in the leading coordinates. By the triangle inequality, tiles are skipped for a
    row. Of equal distances the lowest index wins.
    """
    size = len(index) // len(bounds)
    lowest = np.empty(bounds.shape[1] // TILE, np.float32)
    halves = np.empty(TILE, np.float32)
    for group in range(len(bounds)):
        for tile in range(len(lowest)):
            lowest[tile] = _minimum(bounds[group, tile * TILE : tile * TILE + TILE])
        first = int(lowest.argmin())
        for i in range(group * size, group * size + size):
            best = _search_tile(codes, rows, i, first, halves, (np.float32(np.inf), -1))
            reach = np.sqrt(best[0]) + rows.radii[i]
            limit = reach * reach + rows.rounding[i] - centres[group]
            for tile in range(len(lowest)):
                if tile == first or lowest[tile] > limit:
                    continue
                best = _search_tile(codes, rows, i, tile, halves, best)
                reach = np.sqrt(best[0]) + rows.radii[i]
                limit = reach * reach + rows.rounding[i] - centres[group]
            index[i] = best[1]
