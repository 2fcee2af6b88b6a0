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
def _square_distance(a: Any, i: Any, b: Any, j: Any) -> Any:
    """Return the squared distance of row i of a (N, D) and row j of b (K, D)."""
    total = np.float32(0)
    for k in range(a.shape[1]):
        difference = a[i, k] - b[j, k]
        total += difference * difference
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def _lowest_bounds(bounds: Any, group: Any, out: Any) -> Any:
    """Write the lowest bound of each tile to out (T,); return the tile of the lowest.

    bounds: (G, T · TILE), of which the row `group` is read."""
    first = 0
    for tile in range(len(out)):
        lowest = bounds[group, tile * TILE]
        for k in range(tile * TILE, tile * TILE + TILE):
            lowest = min(lowest, bounds[group, k])
        out[tile] = lowest
        if lowest < out[first]:
            first = tile
    return first


@njit(cache=True, nogil=True, fastmath=FAST)
def _bounds_of(leading: Any, i: Any, norm: Any, codes: Any, tile: Any, out: Any) -> Any:
    """Write the squared bounds of row i of leading (N, A) and the codes of a tile to out (TILE,).

    Return the lowest. norm: squared norm of the row."""
    tiles, squares = codes.tiles, codes.squares
    for j in range(TILE):
        out[j] = np.float32(0.5) * (squares[tile * TILE + j] + norm)
    for k in range(0, leading.shape[1], STEP):
        a, b, c, d = leading[i, k], leading[i, k + 1], leading[i, k + 2], leading[i, k + 3]
        e, f, g, h = leading[i, k + 4], leading[i, k + 5], leading[i, k + 6], leading[i, k + 7]
        for j in range(TILE):  # a sum of one product at a time would be limited by memory
            out[j] -= (
                a * tiles[tile, k, j] + b * tiles[tile, k + 1, j]
                + c * tiles[tile, k + 2, j] + d * tiles[tile, k + 3, j]
                + e * tiles[tile, k + 4, j] + f * tiles[tile, k + 5, j]
                + g * tiles[tile, k + 6, j] + h * tiles[tile, k + 7, j]
            )  # fmt: skip
    lowest = np.float32(np.inf)
    for j in range(TILE):
        out[j] *= 2
        lowest = min(lowest, out[j])
    return lowest


@njit(cache=True, nogil=True, fastmath=FAST)
def _search_tile(rows: Any, i: Any, codes: Any, tile: Any, bounds: Any, best: Any) -> Any:
    """Return the squared distance and index of the nearest code to row i of a tile and of `best`.

    bounds: result of `_bounds_of` for the tile, (TILE,)."""
    distance, place = best
    last = rows.leading.shape[1] - 1
    for j in range(TILE):
        if bounds[j] > distance:
            continue
        at = tile * TILE + j
        gap = rows.leading[i, last] - codes.tiles[tile, last, j]
        middle = _square_distance(rows.middles, i, codes.middles, at)
        if bounds[j] - gap * gap + middle > distance:
            continue
        exact = _square_distance(rows.rows, i, codes.table, codes.order[at])
        if exact < distance or (exact == distance and codes.order[at] < place):
            distance, place = exact, codes.order[at]
    return distance, place


@njit(cache=True, nogil=True, fastmath=FAST)
def _search_row(rows: Any, i: Any, codes: Any, lowest: Any, first: Any, centre: Any) -> Any:
    """Return the squared distance and index of the nearest code to row i.

    lowest: lowest bound of each tile for the centre of the group (T,), without its squared norm
    `centre`; first: tile of the lowest."""
    norm = np.float32(0)
    for k in range(rows.leading.shape[1]):
        norm += rows.leading[i, k] * rows.leading[i, k]
    norm -= rows.rounding[i]
    bounds = np.empty(TILE, np.float32)
    bound = _bounds_of(rows.leading, i, norm, codes, first, bounds)
    best = np.float32(np.inf), -1
    for j in range(TILE):
        if bounds[j] == bound:  # a close code at first lets the bounds discard more
            place = codes.order[first * TILE + j]
            best = _square_distance(rows.rows, i, codes.table, place), place
            break
    best = _search_tile(rows, i, codes, first, bounds, best)
    reach = np.sqrt(best[0]) + rows.radii[i]
    for tile in range(len(lowest)):
        if lowest[tile] + centre > reach * reach + rows.rounding[i] or tile == first:
            continue
        if _bounds_of(rows.leading, i, norm, codes, tile, bounds) <= best[0]:
            best = _search_tile(rows, i, codes, tile, bounds, best)
            reach = np.sqrt(best[0]) + rows.radii[i]
    return best


@njit(cache=True, nogil=True, fastmath=FAST)
def search_groups(
    bounds: Any, centres: Any, rows: Any, codes: Any, index: Any, distance: Any
) -> None:
    """Write the nearest codes of rows, in groups of consecutive ones, to index (N,), int64, and
    their distances to distance (N,), float32.

    bounds (G, T · TILE) + centres (G,): squared distances of the codes in the tiles to the centres
    of the groups, in the leading coordinates. By the triangle inequality, tiles are skipped for a
    row. Of equal distances the lowest index wins.
    """
    size = len(index) // len(bounds)
    lowest = np.empty(bounds.shape[1] // TILE, np.float32)
    for group in range(len(bounds)):
        first = _lowest_bounds(bounds, group, lowest)
        for i in range(group * size, group * size + size):
            square, index[i] = _search_row(rows, i, codes, lowest, first, centres[group])
            distance[i] = np.sqrt(square)
