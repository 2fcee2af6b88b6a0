"""`fabric`: a plain weave of thick yarn, seen from above."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from vqlab.data.synthetic.surface import (
    PIXEL,
    Array,
    Pose,
    Surface,
    around,
    clouds,
    fractal,
    polar,
    to_line,
)

YARN = np.array([[0.44, 0.47, 0.55], [0.66, 0.62, 0.54]], np.float32)
"""Colour of warp and weft."""
UNDER = np.array([0.07, 0.07, 0.08], np.float32)
STAINS = np.array([[0.30, 0.22, 0.15], [0.20, 0.24, 0.34], [0.62, 0.52, 0.30]], np.float32)
PITCH = 0.105
"""Distance from yarn to yarn; the image spans [-1, 1]."""


@dataclass(frozen=True)
class Misplaced:
    """Misplaced yarns over a range (in yarns from the fabric's origin)."""

    weft: bool
    first: int
    last: int
    start: float
    end: float
    left: float
    """Share of their thickness; at 1 they float over their neighbours instead of weaving."""


@dataclass(frozen=True)
class Fabric:
    """A piece of fabric, its pose and its defects."""

    seed: int
    pose: Pose
    shades: tuple[float, float]
    """Brightness of warp and weft."""
    hole: Array | None = None
    """(3,): x, y, radius."""
    stain: tuple[Array, int, float] | None = None
    """(3,) as for the hole, index into STAINS, strength."""
    thread: tuple[Array, Array] | None = None
    """Points (n, 2) of a loose thread, its colour (3,)."""
    wrong: Misplaced | None = None

    def surface(self) -> Surface:
        """Return the surface for the camera."""
        rng = np.random.default_rng(self.seed)
        surface = Surface(UNDER, -9, 0.0)
        u, v = self.pose.grid()
        # Yarns wander a little; each has its own thickness and shade.
        across = (u + 0.007 * clouds(rng, 4) + 0.002 * clouds(rng, 14)) / PITCH
        down = (v + 0.007 * clouds(rng, 4) + 0.002 * clouds(rng, 14)) / PITCH
        fuzz = clouds(rng, 220)
        tones = rng.normal(0, 0.03, (2, 64)).astype(np.float32)
        thick = rng.normal(0.41, 0.018, (2, 64)).astype(np.float32)
        hole = self._hole(u, v, rng)
        for weft, (along, place) in enumerate(((down, across), (across, down))):
            number = np.floor(place).astype(np.int32)
            other = np.floor(along).astype(np.int32)
            over = (1 - 2 * ((number + other + weft) % 2)).astype(np.float32)
            lift = np.cos(math.pi * (along - other.astype(np.float32) - 0.5)) * over
            half = thick[weft, number % 64]
            lift, half = self._weave(lift, half, bool(weft), number, along)
            aside = (place - number.astype(np.float32) - 0.5) / half
            twist = np.sin(2 * math.pi * (3.0 * along + 0.9 * aside))
            height = 7 * lift + 8 * np.sqrt(np.clip(1 - aside**2, 0, 1)) - 4
            height = height + 0.35 * twist + 0.5 * fuzz
            shade = self.shades[weft] * (1 + tones[weft, number % 64] + 0.06 * fuzz + 0.03 * twist)
            cover = around(np.abs(aside) - 1, 0.12) * (1 - hole)
            if weft:
                cover = cover * around(surface.height - height, 1.2)
            surface.lay(cover, YARN[weft][:, None, None] * shade, height, 0.06)
        self._finish(surface, u, v, rng)
        return surface

    def _weave(
        self, lift: Array, half: Array, weft: bool, number: Array, along: Array
    ) -> tuple[Array, Array]:
        """Lift and half thickness (S, S) of one set of yarns, including the misplaced ones."""
        wrong = self.wrong
        if wrong is None or wrong.weft != weft:
            return lift, half
        inside = (number >= wrong.first) & (number <= wrong.last)
        inside &= (along > wrong.start) & (along < wrong.end)
        if wrong.left < 1:
            return lift, np.where(inside, np.maximum(half * wrong.left, 0.02), half)
        return np.where(inside, 1.1, lift), half

    def _hole(self, u: Array, v: Array, rng: Generator) -> Array:
        """Cover (S, S) of the hole, with a torn edge."""
        ragged = 0.35 * fractal(rng, 14, 3)
        if self.hole is None:
            return np.zeros_like(u)
        x, y, size = self.hole.tolist()
        return around(np.hypot(u - x, v - y) - size * (1 + ragged), 0.02)

    def _finish(self, surface: Surface, u: Array, v: Array, rng: Generator) -> None:
        """Draw a stain and a loose thread."""
        blotch = 0.30 * fractal(rng, 8, 3)
        if self.stain is not None:
            (x, y, size), kind, strength = self.stain[0].tolist(), *self.stain[1:]
            cover = strength * around(np.hypot(u - x, v - y) - size * (1 + blotch), 0.3 * size)
            surface.albedo *= 1 - cover * (1 - STAINS[kind][:, None, None] * 1.3)
        if self.thread is not None:
            points, colour = self.thread
            away = to_line(u, v, points)
            tall = 10 + 9 * np.sqrt(np.clip(1 - (away / 0.022) ** 2, 0, 1))
            surface.lay(around(away - 0.022, 1.5 * PIXEL), colour, tall, 0.1)


def draw(rng: Generator) -> Fabric:
    """Return a random normal piece of fabric."""
    return Fabric(
        seed=int(rng.integers(2**31)),
        pose=Pose(
            rng.normal(0, 0.05),
            (rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)),
            rng.uniform(0.95, 1.05),
        ),
        shades=(float(np.exp(rng.normal(0, 0.06))), float(np.exp(rng.normal(0, 0.06)))),
    )


def _spot(fabric: Fabric, rng: Generator, reach: float = 0.7) -> Array:
    """A point (2,) in the fabric's frame that lies well inside the picture."""
    return np.asarray(rng.uniform(-reach, reach, 2) - np.array(fabric.pose.shift))


def _tear(fabric: Fabric, rng: Generator) -> Fabric:
    return replace(fabric, hole=np.array([*_spot(fabric, rng), rng.uniform(0.05, 0.16)]))


def _spill(fabric: Fabric, rng: Generator) -> Fabric:
    spot = np.array([*_spot(fabric, rng), rng.uniform(0.10, 0.30)])
    return replace(fabric, stain=(spot, int(rng.integers(len(STAINS))), rng.uniform(0.55, 0.95)))


def _loosen(fabric: Fabric, rng: Generator) -> Fabric:
    heading, bend = rng.uniform(0, 2 * math.pi), rng.normal(0, 0.15)
    points = [_spot(fabric, rng, 0.5)]
    for _ in range(int(rng.integers(8, 20))):
        points.append(points[-1] + polar(heading, 0.045))
        heading += bend + rng.normal(0, 0.2)
    colour = YARN[int(rng.integers(2))] * rng.uniform(0.7, 1.25)
    return replace(fabric, thread=(np.array(points), colour))


def _misweave(fabric: Fabric, rng: Generator) -> Fabric:
    u, v = (_spot(fabric, rng, 0.5) / PITCH).tolist()
    weft = bool(rng.integers(2))
    middle, yarn = (u, v) if weft else (v, u)
    first, reach = math.floor(yarn), rng.uniform(2.5, 8)
    last, left = first + int(rng.integers(2)), float(rng.choice([0.0, 0.5, 1.0]))
    return replace(fabric, wrong=Misplaced(weft, first, last, middle - reach, middle + reach, left))


DAMAGE = {
    "hole": _tear,
    "loose_thread": _loosen,
    "misweave": _misweave,
    "stain": _spill,
}
"""Functions that draw each defect type."""
