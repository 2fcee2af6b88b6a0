"""`wood`: a planed board with its growth rings and pores."""

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
    streaks,
    to_line,
)

EARLY = np.array([0.74, 0.55, 0.36], np.float32)
LATE = np.array([0.49, 0.31, 0.17], np.float32)
"""Colours of spring wood and of the dark line that ends each ring."""


@dataclass(frozen=True)
class Line:
    """A crack (dark, deep) or a scratch (light, shallow): points (n, 2), width, depth, shade."""

    points: Array
    width: float
    depth: float
    shade: float


@dataclass(frozen=True)
class Wood:
    """A board, its grain (along v) and its defects."""

    seed: int
    pose: Pose
    shade: float
    pith: tuple[float, float]
    """Position of the tree's centre: beside the image, and along the grain."""
    rings: float
    """Growth rings per unit."""
    lines: tuple[Line, ...] = ()
    holes: tuple[tuple[float, float, float], ...] = ()
    """x, y, radius of worm holes."""
    spill: tuple[float, float, float, float] | None = None
    """x, y, radius, strength of a wet patch."""

    def surface(self) -> Surface:
        """Return the surface for the camera."""
        rng = np.random.default_rng(self.seed)
        surface = Surface(EARLY, 0, 0.10)
        u, v = self.pose.grid()
        aside = u - self.pith[0] + 0.05 * clouds(rng, 3) + 0.012 * clouds(rng, 9)
        cone = np.hypot(aside, 0.16 * (v - self.pith[1]) + 0.10)
        ring = cone * self.rings + 0.25 * clouds(rng, 5)
        phase = ring - np.floor(ring)
        late = phase**3 * np.clip((1 - phase) / 0.10, 0, 1)
        late = late * (0.85 + 0.25 * clouds(rng, 7))
        grain = self.pose.turn - math.pi / 2  # the direction of v in the picture, image axes
        fine = streaks(rng, -grain, 40)
        pores = np.clip(streaks(rng, -grain, 14) - 1.3, 0, 1.5)
        tone = self.shade * (
            1 + 0.05 * fine + 0.04 * fractal(rng, 4, 3) - 0.22 * pores + 0.02 * clouds(rng, 180)
        )
        mix = np.clip(0.95 * late + 0.10, 0, 1)
        colour = EARLY[:, None, None] + mix * (LATE - EARLY)[:, None, None]
        height = 0.7 * late - 1.2 * pores + 0.15 * fine
        surface.lay(np.ones_like(u), colour * tone, height)
        self._wet(surface, u, v, 0.22 * fractal(rng, 6, 3))
        self._scar(surface, u, v, 0.35 * clouds(rng, 25))
        return surface

    def _wet(self, surface: Surface, u: Array, v: Array, edge: Array) -> None:
        if self.spill is None:
            return
        x, y, size, strength = self.spill
        away = np.hypot(u - x, 0.7 * (v - y)) - size * (1 + edge)
        cover = around(away, 0.025) * strength
        surface.albedo *= 1 - cover * np.array([0.42, 0.48, 0.52], np.float32)[:, None, None]
        surface.height *= 1 - 0.8 * cover
        surface.height += 2.5 * around(away, 0.05) * strength
        surface.gloss += 0.35 * cover

    def _scar(self, surface: Surface, u: Array, v: Array, ragged: Array) -> None:
        for line in self.lines:
            away = to_line(u, v, line.points) / line.width
            groove = np.clip(1.3 + ragged - away, 0, 1)
            surface.height -= line.depth * groove
            surface.albedo *= 1 + (line.shade - 1) * groove
        for x, y, size in self.holes:
            away = np.hypot(u - x, v - y) - size * (1 + 0.3 * ragged)
            surface.lay(around(away, 2 * PIXEL), LATE * 0.35, -30, 0.0)


def draw(rng: Generator) -> Wood:
    """Return a random normal board."""
    return Wood(
        seed=int(rng.integers(2**31)),
        pose=Pose(rng.normal(0, 0.06), (0.0, 0.0), rng.uniform(0.92, 1.08)),
        shade=float(np.exp(rng.normal(0, 0.07))),
        pith=(rng.uniform(-0.5, 0.5), float(rng.choice([-1, 1]) * rng.uniform(0.8, 3.5))),
        rings=rng.uniform(9, 13),
    )


def _walk(rng: Generator, heading: float, wander: float, steps: int) -> Array:
    """(steps + 1, 2) points of a wandering line that starts inside the picture."""
    points = [rng.uniform(-0.6, 0.6, 2) - 0.3 * polar(heading, 1)]
    for _ in range(steps):
        points.append(points[-1] + polar(heading + rng.normal(0, wander), 0.06))
    return np.array(points)


def _crack(wood: Wood, rng: Generator) -> Wood:
    points = _walk(rng, math.pi / 2 + rng.normal(0, 0.06), 0.35, int(rng.integers(5, 18)))
    line = Line(points, rng.uniform(0.005, 0.012), rng.uniform(6, 14), 0.3)
    return replace(wood, lines=(line,))


def _scratch(wood: Wood, rng: Generator) -> Wood:
    heading = rng.uniform(0, 2 * math.pi)
    lines = []
    for _ in range(int(rng.integers(1, 4))):
        points = _walk(rng, heading + rng.normal(0, 0.15), 0.08, int(rng.integers(4, 12)))
        width, depth = rng.uniform(0.005, 0.009), rng.uniform(1.5, 4)
        lines.append(Line(points, width, depth, float(rng.choice([0.75, 1.25, 1.35]))))
    return replace(wood, lines=tuple(lines))


def _bore(wood: Wood, rng: Generator) -> Wood:
    holes = []
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(-0.75, 0.75, 2).tolist()
        holes.append((x, y, rng.uniform(0.022, 0.06)))
    return replace(wood, holes=tuple(holes))


def _spill(wood: Wood, rng: Generator) -> Wood:
    x, y = rng.uniform(-0.6, 0.6, 2).tolist()
    return replace(wood, spill=(x, y, rng.uniform(0.10, 0.30), rng.uniform(0.35, 0.8)))


DAMAGE = {
    "crack": _crack,
    "hole": _bore,
    "liquid": _spill,
    "scratch": _scratch,
}
"""Functions that draw each defect type."""
