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
    """Bound of the rounding error of squared bounds, which are lowered by it, (N,)."""


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
def _bounds_of(leading: Any, i: Any, norm: Any, tiles: Any, squares: Any, tile: Any, out: Any
               ) -> Any:  # fmt: skip
    """Write the squared bounds of row i of leading (N, A) and the codes of a tile to out (TILE,).

    Return the lowest. norm: squared norm of the row."""
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
def search_groups(
    bounds: Any, centres: Any, rows: Any, codes: Any, index: Any, distance: Any
) -> None:
    """Write the nearest codes of rows, in groups of consecutive ones, to index (N,), int64, and
    their distances to distance (N,), float32.

    bounds (G, T · TILE) + centres (G,): squared distances of the codes in the tiles to the centres
    of the groups, in the leading coordinates. By the triangle inequality, tiles are skipped for a
    row. Of equal distances the lowest index wins.
    """
    table, order, tiles, code_middles, squares = codes  # passing tuples to functions is slow
    vectors, leading, middles, radii, rounding = rows
    size, last = len(index) // len(bounds), leading.shape[1] - 1
    lowest, tile_bounds = np.empty(bounds.shape[1] // TILE, np.float32), np.empty(TILE, np.float32)
    for i in range(len(index)):
        group = i // size
        if i == group * size:
            first = _lowest_bounds(bounds, group, lowest)
            lowest[first] = np.inf  # searched before the others
        norm = np.float32(0)
        for k in range(last + 1):
            norm += leading[i, k] * leading[i, k]
        norm -= rounding[i]
        square, place, limit = np.float32(np.inf), -1, np.float32(np.inf)
        for step in range(-1, len(lowest)):
            if step >= 0 and lowest[step] > limit:
                continue
            tile = step if step >= 0 else first
            bound = _bounds_of(leading, i, norm, tiles, squares, tile, tile_bounds)
            if bound > square or bound == np.inf:
                continue
            for j in range(TILE if place < 0 else 0):
                if tile_bounds[j] == bound:  # a close code at first lets the bounds discard more
                    place = order[tile * TILE + j]
                    square = _square_distance(vectors, i, table, place)
                    break
            for j in range(TILE):
                if tile_bounds[j] > square:
                    continue
                at = tile * TILE + j
                gap = leading[i, last] - tiles[tile, last, j]
                if (
                    tile_bounds[j] - gap * gap + _square_distance(middles, i, code_middles, at)
                    > square
                ):
                    continue
                exact = _square_distance(vectors, i, table, order[at])
                if exact < square or (exact == square and order[at] < place):
                    square, place = exact, order[at]
            reach = np.sqrt(square) + radii[i]
            limit = reach * reach + rounding[i] - centres[group]
        index[i], distance[i] = place, np.sqrt(square)


@njit(cache=True, nogil=True, fastmath=FAST)
def mark_within(
    rows: Any, leading: Any, table: Any, code_leading: Any, order: Any, reach: Any, within: Any
) -> None:
    """Set within (K,), bool, for the codes of table (K, D) whose distance to any of the rows (N, D)
    is at most reach (K,).

    leading (N, A): the rows on orthonormal axes. code_leading (K, A): the codes on the same axes,
    sorted by the first; order (K,): their indices into the table.
    """
    first, widest = code_leading[:, 0].copy(), reach.max()
    for i in range(len(rows)):
        at = np.searchsorted(first, leading[i, 0] - widest)
        while at < len(first) and first[at] <= leading[i, 0] + widest:
            code = order[at]
            limit = reach[code] * reach[code]
            if (
                not within[code]
                and _square_distance(leading, i, code_leading, at) <= limit
                and _square_distance(rows, i, table, code) <= limit
            ):
                within[code] = True
            at += 1
