"""Surface of a synthetic part (colour, height, gloss on a grid) and random textures."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A float32 or bool array; shapes are in the docstrings."""

SIDE = 256
"""Side of an image in pixels."""

GRID = SIDE * 3 // 2
"""Side at which parts are rendered, before averaging to `SIDE` (anti-aliasing)."""

PIXEL = 2 / GRID
"""Width of a rendered pixel; the image spans [-1, 1]."""

UNIT = 1 / 256
"""Unit of heights in the same coordinates."""

WHOLE = (slice(None), slice(None))


class Surface:
    """Albedo (3, S, S) in [0, 1], height (S, S) in `UNIT`, gloss (S, S), all float32."""

    def __init__(self, colour: Array, height: float, gloss: float) -> None:
        self.albedo = np.empty((3, GRID, GRID), np.float32)
        self.albedo[:] = colour[:, None, None]
        self.height = np.full((GRID, GRID), height, np.float32)
        self.gloss = np.full((GRID, GRID), gloss, np.float32)

    def lay(
        self,
        cover: Array,
        colour: Array | None = None,
        height: Array | float | None = None,
        gloss: Array | float | None = None,
        where: tuple[slice, slice] = WHOLE,
    ) -> None:
        """Blend a material into the surface inside the box `where`.

        cover (h, w) in [0, 1]; colour (3,) or (3, h, w); height and gloss (h, w) or one number.
        """
        layers: list[tuple[Array, Any]] = [(self.height, height), (self.gloss, gloss)]
        if colour is not None:
            layers += zip(self.albedo, colour.astype(np.float32), strict=True)
        for plane, value in layers:
            if value is not None:
                change = value - plane[where]
                change *= cover
                plane[where] += change


@dataclass(frozen=True)
class Pose:
    """Pose of a part in the image, which spans [-1, 1]: rotation (rad), shift (x, y), scale."""

    turn: float
    shift: tuple[float, float]
    size: float

    def grid(self) -> tuple[Array, Array]:
        """Return every rendered pixel's (u, v) in the part's frame, each (S, S) float32."""
        line = (np.arange(GRID, dtype=np.float32) + 0.5) * PIXEL - 1
        x = ((line - self.shift[0]) / self.size)[None, :]
        y = ((line - self.shift[1]) / self.size)[:, None]
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return cos * x + sin * y, cos * y - sin * x

    def box(self, u: float, v: float, reach: float) -> tuple[slice, slice]:
        """Return slices (rows, columns) of the pixels within `reach` of (u, v), with a margin."""
        x, y = self._in_image(u, v)
        half = reach * self.size + 0.02
        return _span(y - half, y + half), _span(x - half, x + half)

    def windows(self, u: Array, v: Array, reach: float) -> Array:
        """Return flat indices (n, h, h) of the pixels around each of n points (u, v)."""
        x, y = self._in_image(u, v)
        half = round((reach * self.size + 0.01) / PIXEL)
        line = np.arange(-half, half + 1)
        columns = np.clip(np.rint((x + 1) / PIXEL).astype(int)[:, None] + line, 0, GRID - 1)
        rows = np.clip(np.rint((y + 1) / PIXEL).astype(int)[:, None] + line, 0, GRID - 1)
        return np.asarray(rows[:, :, None] * GRID + columns[:, None, :])

    def _in_image(self, u: Any, v: Any) -> tuple[Any, Any]:
        """Return (x, y) in the image of a point or points in the part's frame."""
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        x = (cos * u - sin * v) * self.size + self.shift[0]
        return x, (sin * u + cos * v) * self.size + self.shift[1]


def _span(low: float, high: float) -> slice:
    start, stop = (min(GRID, max(0, round((end + 1) / PIXEL))) for end in (low, high))
    return slice(start, stop)


def polar(angle: float, radius: float) -> Array:
    """Return the point (2,) at `angle` (rad) and `radius`."""
    return np.array([radius * math.cos(angle), radius * math.sin(angle)])


def to_line(u: Array, v: Array, points: Array) -> Array:
    """Return the distance (h, w) float32 of every pixel to the polyline `points` (n, 2)."""
    away = np.full(np.broadcast_shapes(u.shape, v.shape), np.inf, np.float32)
    for (x, y), (end_x, end_y) in itertools.pairwise(points.tolist()):
        along_x, along_y = end_x - x, end_y - y
        square = max(along_x**2 + along_y**2, 1e-9)
        share = np.clip(((u - x) * along_x + (v - y) * along_y) / square, 0, 1)
        away = np.minimum(away, np.hypot(u - x - share * along_x, v - y - share * along_y))
    return away


def around(distance: Array, softness: float) -> Array:
    """Return coverage in [0, 1] from a signed distance (negative inside), with a soft edge."""
    return np.clip(0.5 - distance / softness, 0, 1)


def clouds(rng: Generator, cells: int, side: int = GRID) -> Array:
    """Return smooth noise (side, side) float32, mean 0, standard deviation 0.8, `cells` across."""
    if cells >= 32:  # fine grain: a random crop of one sheet is as good and much cheaper
        sheet = _sheet(round(cells * 2 * GRID / side))
        top, left = rng.integers(0, sheet.shape[0] - side, 2)
        cut = sheet[top : top + side, left : left + side]
        return cut.T if rng.random() < 0.5 else cut
    coarse = rng.standard_normal((cells + 4, cells + 4), dtype=np.float32)
    step = max(1, min(8, side // cells))
    fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    inner = fine[2 * step : -2 * step, 2 * step : -2 * step]
    return np.asarray(cv2.resize(inner, (side, side), interpolation=cv2.INTER_LINEAR))


@functools.cache
def _sheet(cells: int) -> Array:
    """Noise (2 * GRID, 2 * GRID) float32 with `cells` bumps across, always the same."""
    coarse = np.random.default_rng(cells).standard_normal((cells, cells), dtype=np.float32)
    sheet: Array = cv2.resize(coarse, (2 * GRID, 2 * GRID), interpolation=cv2.INTER_CUBIC)
    return sheet


def fractal(rng: Generator, cells: int, octaves: int) -> Array:
    """Sum of clouds (S, S), each octave twice as fine and half as strong."""
    total = clouds(rng, cells)
    for octave in range(1, octaves):
        total = total + clouds(rng, cells * 2**octave) * np.float32(0.5**octave)
    return total


def streaks(rng: Generator, angle: float, length: float) -> Array:
    """Marks of a blade or brush: noise (S, S), `length` pixels long along `angle` (rad)."""
    sheet = _stretched_noise(length)
    turn = cv2.getRotationMatrix2D((GRID, GRID), float(np.degrees(angle)), 1.0)
    turn[:, 2] -= GRID / 2 + rng.uniform(-GRID / 4, GRID / 4, 2)
    marks: Array = cv2.warpAffine(sheet, turn, (GRID, GRID), borderMode=cv2.BORDER_REFLECT)
    return marks


@functools.cache
def _stretched_noise(length: float) -> Array:
    side = 2 * GRID
    rng = np.random.default_rng(int(length))
    thin = rng.standard_normal((side, max(2, int(side / length))), dtype=np.float32)
    sheet: Array = cv2.resize(thin, (side, side), interpolation=cv2.INTER_LINEAR)
    return sheet
