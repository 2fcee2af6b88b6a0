"""Compiled transforms of F(4 × 4, 3 × 3), see `vqlab.nn.minimal_filtering`.

A tile has 6 × 6 inputs and 4 × 4 outputs. First its columns, then its rows are multiplied by the
matrices Bᵀ and Aᵀ of Lavin & Gray (2016), at the points 0, 1, −1, 2, −2 and infinity. Maps have
channels last, which the innermost loops run over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

FAST = {"nsz"}
"""Other flags would let results differ between a function just compiled and one from the cache."""
TWO, FOUR, FIVE, EIGHT = map(np.float32, (2, 4, 5, 8))


@njit(cache=True, nogil=True, fastmath=FAST)
def _transform_inputs(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, out: Any, step: Any) -> None:
    """Write Bᵀ · [a, b, c, d, e, f], vectors (C,), to the rows 0, step, …, 5 · step of out."""
    for k in range(len(a)):
        even, odd = e[k] - FOUR * c[k], d[k] - FOUR * b[k]
        difference, slope = e[k] - c[k], TWO * (d[k] - b[k])
        out[0, k] = FOUR * a[k] - FIVE * c[k] + e[k]
        out[step, k] = even + odd
        out[2 * step, k] = even - odd
        out[3 * step, k] = difference + slope
        out[4 * step, k] = difference - slope
        out[5 * step, k] = FOUR * b[k] - FIVE * d[k] + f[k]


@njit(cache=True, nogil=True, fastmath=FAST)
def _transform_products(
    a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, out: Any, step: Any
) -> None:
    """Write Aᵀ · [a, b, c, d, e, f], vectors (O,), to the rows 0, step, 2 · step, 3 · step of
    out."""
    for k in range(len(a)):
        one, two = b[k] - c[k], d[k] - e[k]
        one_even, two_even = b[k] + c[k], d[k] + e[k]
        out[0, k] = a[k] + one_even + two_even
        out[step, k] = one + TWO * two
        out[2 * step, k] = one_even + FOUR * two_even
        out[3 * step, k] = one + EIGHT * two + f[k]


@njit(cache=True, nogil=True, fastmath=FAST)
def transform_inputs(x: Any, out: Any) -> None:
    """Write the transformed tiles of a map x (h, w, C), padded by 1, to out (36, tiles, C)."""
    height, width, channels = x.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    tiles = rows * columns
    flat, planes = x.reshape(height, width * channels), out.reshape(36 * tiles, channels)
    outside = np.zeros(width * channels, x.dtype)
    strip = np.zeros((6, (4 * columns + 2) * channels), x.dtype)  # a row of tiles, padded
    inside = strip[:, channels : channels + width * channels]
    for i in range(rows):
        y = 4 * i - 1
        _transform_inputs(
            flat[y] if y >= 0 else outside,
            flat[y + 1],
            flat[y + 2] if y + 2 < height else outside,
            flat[y + 3] if y + 3 < height else outside,
            flat[y + 4] if y + 4 < height else outside,
            flat[y + 5] if y + 5 < height else outside,
            inside,
            1,
        )
        for j in range(columns):
            for k in range(6):
                pixels = strip[k, 4 * j * channels :].reshape(-1, channels)
                _transform_inputs(
                    pixels[0], pixels[1], pixels[2], pixels[3], pixels[4], pixels[5],
                    planes[6 * k * tiles + i * columns + j :], tiles,
                )  # fmt: skip


@njit(cache=True, nogil=True, fastmath=FAST)
def transform_products(products: Any, bias: Any, residual: Any, rectify: bool, out: Any) -> None:
    """Write a map (h, w, O) to out: the transform of products (36, tiles, O) of the filters + bias
    (O,) + residual (h, w, O), or (0, 0, O) for none; if `rectify`, its positive part."""
    height, width, channels = out.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    tiles = rows * columns
    planes = products.reshape(36 * tiles, channels)
    columns_of = np.empty((4 * 6, channels), out.dtype)
    line = np.empty((4, channels), out.dtype)
    for i in range(rows):
        for j in range(columns):
            for k in range(6):
                tile = planes[k * tiles + i * columns + j :]
                _transform_products(
                    tile[0], tile[6 * tiles], tile[12 * tiles], tile[18 * tiles],
                    tile[24 * tiles], tile[30 * tiles], columns_of[k:], 6,
                )  # fmt: skip
            for y in range(4 * i, min(4 * i + 4, height)):
                half = columns_of[6 * (y - 4 * i) :]
                _transform_products(half[0], half[1], half[2], half[3], half[4], half[5], line, 1)
                for x in range(4 * j, min(4 * j + 4, width)):
                    for k in range(channels):
                        value = line[x - 4 * j, k] + bias[k]
                        if len(residual) > 0:
                            value += residual[y, x, k]
                        out[y, x, k] = max(value, 0) if rectify else value
