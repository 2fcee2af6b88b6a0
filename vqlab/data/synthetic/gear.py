"""`gear`: a steel spur gear on a dark mat, in any orientation.

Teeth and holes are large enough to be seen in an image of 128 px and repeat every 90 degrees, so
the training images show the gear at every angle. Every defect is larger than the marks that a
flawless gear has.
"""

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

TEETH, HOLES = 12, 4
ROOT, TIP, BORE = 0.64, 0.83, 0.19
"""Radii of the tooth gaps, the tooth tips and the bore; the image spans [-1, 1]."""
HUB, RIM = 0.30, 0.56
"""The raised hub ends and the raised rim begins at these radii; the holes lie between."""
HOLE_AT, HOLE = 0.43, 0.085
"""Distance of the holes from the centre, and their radius."""
STEEL = np.array([0.56, 0.57, 0.60], np.float32)
MAT = np.array([0.20, 0.22, 0.25], np.float32)
DIRT = np.array([[0.09, 0.07, 0.05], [0.42, 0.19, 0.07], [0.62, 0.55, 0.22]], np.float32)
"""Grease, rust, brass swarf."""
Dirt = tuple[tuple[float, float], float, int]
"""Centre, radius and index into DIRT of a spot of dirt."""
TALL = 20.0
"""Thickness of the gear, `UNIT`."""


@dataclass(frozen=True)
class Mark:
    """A line (scratch) or a spot (dent: its points lie close together) pressed into the face."""

    points: Array
    """(n, 2) in the gear's frame."""
    width: float
    depth: float
    bright: float


@dataclass(frozen=True)
class Gear:
    """A gear, its pose and its defects."""

    seed: int
    pose: Pose
    shades: tuple[float, float]
    """Brightness of the steel and of the mat."""
    worn: tuple[float, ...]
    """Remaining share of each tooth, 0 to 1."""
    marks: tuple[Mark, ...] = ()
    dirt: tuple[Dirt, ...] = ()

    def surface(self) -> Surface:
        """Return the surface for the camera."""
        rng = np.random.default_rng(self.seed)
        surface = Surface(MAT * self.shades[1], -TALL, 0.02)
        surface.albedo *= 1 + 0.02 * fractal(rng, 5, 2) + 0.02 * clouds(rng, 150)
        u, v = self.pose.grid()
        radius, angle = np.hypot(u, v), np.arctan2(v, u)
        grit = clouds(rng, 200)
        out = self._outline(radius, angle, u, v)
        rings = _lathe(radius, rng)
        shade = self.shades[0] * (1 + 0.02 * fractal(rng, 4, 2) + 0.02 * rings + 0.01 * grit)
        relief = _relief(out, radius, rings, grit, streaks(rng, self.pose.turn, 40))
        surface.lay(around(out, 2 * PIXEL), STEEL[:, None, None] * shade, relief, 0.55)
        for mark in self.marks:
            self._press(surface, u, v, mark)
        for spot in self.dirt:
            _smear(surface, u, v, spot, rng)
        return surface

    def _outline(self, radius: Array, angle: Array, u: Array, v: Array) -> Array:
        """Signed distance (S, S), about, to the gear's outline; negative on the steel."""
        turns = (angle / (2 * math.pi)) % 1.0 * TEETH
        tooth = np.array(self.worn, np.float32)[np.minimum(turns.astype(np.int32), TEETH - 1)]
        aside = np.abs(turns % 1.0 - 0.5)  # 0 in the middle of a tooth, 0.5 between two
        flank = np.clip((0.33 - aside) / 0.13, 0, 1)
        flank = flank * flank * (3 - 2 * flank)
        out = (radius - ROOT - (TIP - ROOT) * flank * tooth) * 0.75
        keyway = np.maximum(np.abs(u) - 0.05, np.abs(v + BORE) - 0.075)
        bore = np.minimum(radius - BORE, keyway)
        for x, y in _holes().tolist():
            bore = np.minimum(bore, np.hypot(u - x, v - y) - HOLE)
        return np.maximum(out, -bore)

    def _press(self, surface: Surface, u: Array, v: Array, mark: Mark) -> None:
        x, y = mark.points.mean(0).tolist()
        where = self.pose.box(x, y, 0.35)
        away = to_line(u[where], v[where], mark.points) / mark.width
        steel = surface.height[where] > -TALL + 6
        groove = np.exp(-(away**2)) * steel
        surface.height[where] -= mark.depth * groove
        surface.height[where] += 0.35 * mark.depth * np.exp(-((away - 1.6) ** 2) * 3) * steel
        for tone in surface.albedo:
            tone[where] *= 1 + (mark.bright - 1) * groove


def _relief(out: Array, radius: Array, rings: Array, grit: Array, brushed: Array) -> Array:
    """Height (S, S): raised hub and rim, a turned face between them, chamfered edges."""
    hub = np.clip((HUB - radius) / 0.02, 0, 1)
    rim = np.clip((radius - RIM) / 0.02, 0, 1)
    chamfer = 3 * (1 - np.exp(np.minimum(out, 0) / 0.012))
    face = np.maximum(hub, rim)
    marks = 0.06 * rings * (1 - face) + 0.05 * brushed * face + 0.04 * grit
    return np.asarray(7 * face + chamfer + marks)


def _smear(surface: Surface, u: Array, v: Array, spot: Dirt, rng: Generator) -> None:
    (x, y), size, kind = spot
    edge = np.hypot(u - x, v - y) - size * (1 + 0.22 * fractal(rng, 9, 3))
    cover = around(edge, 0.35 * size) * np.clip(0.85 + 0.25 * clouds(rng, 60), 0, 1)
    tones = DIRT[kind][:, None, None] * (1 + 0.15 * clouds(rng, 90))
    surface.lay(cover, tones, surface.height + 1.5 + clouds(rng, 90), 0.3 if kind == 0 else 0.0)


def _holes() -> Array:
    """(HOLES, 2) centres of the holes, in the gear's frame."""
    return np.array([polar(2 * math.pi * (i + 0.5) / HOLES, HOLE_AT) for i in range(HOLES)])


def _lathe(radius: Array, rng: Generator) -> Array:
    """Fine concentric turning marks (S, S), deviation about 1."""
    profile = rng.standard_normal(260).astype(np.float32)
    place = np.minimum(radius * 90, 258)
    low = place.astype(np.int32)
    share = place - low.astype(np.float32)
    return np.asarray(profile[low] * (1 - share) + profile[low + 1] * share)


def draw(rng: Generator) -> Gear:
    """Return a random normal gear, rotated arbitrarily."""
    return Gear(
        seed=int(rng.integers(2**31)),
        pose=Pose(
            rng.uniform(0, 2 * math.pi),
            (rng.normal(0, 0.02), rng.normal(0, 0.02)),
            rng.uniform(0.97, 1.03),
        ),
        shades=(float(np.exp(rng.normal(0, 0.05))), float(np.exp(rng.normal(0, 0.08)))),
        worn=(1.0,) * TEETH,
    )


def _break_tooth(gear: Gear, rng: Generator) -> Gear:
    first, count = int(rng.integers(TEETH)), int(rng.choice([1, 1, 2]))
    worn = list(gear.worn)
    for tooth in range(first, first + count):
        worn[tooth % TEETH] = rng.uniform(0.0, 0.4)
    return replace(gear, worn=tuple(worn))


def _clear(points: Array) -> bool:
    """Return whether all `points` (n, 2) lie on the face, outside bore, holes and gaps."""
    radius = np.hypot(points[:, 0], points[:, 1])
    to_holes = np.linalg.norm(points[:, None] - _holes(), axis=2)
    inside = (radius > BORE + 0.07) & (radius < ROOT - 0.02)
    return bool((inside & (to_holes.min(1) > HOLE + 0.05)).all())


def _on_face(rng: Generator) -> Array:
    """Return a random point (2,) that is `_clear`."""
    while True:
        spot = polar(rng.uniform(0, 2 * math.pi), rng.uniform(BORE, ROOT))
        if _clear(spot[None]):
            return spot


def _line(rng: Generator) -> Array:
    """A slightly bent line (n, 2) that is `_clear`, at least a sixth of the gear's width long."""
    while True:
        heading = rng.uniform(0, 2 * math.pi)
        points = [_on_face(rng)]
        for _ in range(int(rng.integers(5, 9))):
            points.append(points[-1] + polar(heading, 0.06))
            heading += rng.normal(0, 0.12)
        if _clear(np.array(points)):
            return np.array(points)


def _scratch(gear: Gear, rng: Generator) -> Gear:
    points = _line(rng)
    width, depth = rng.uniform(0.012, 0.020), rng.uniform(3, 7)
    mark = Mark(points, width, depth, float(rng.choice([0.35, 1.7])))
    return replace(gear, marks=(*gear.marks, mark))


def _dent(gear: Gear, rng: Generator) -> Gear:
    marks = list(gear.marks)
    for _ in range(int(rng.integers(1, 3))):
        spot = _on_face(rng)
        points = np.stack([spot, spot + rng.normal(0, 0.02, 2)])
        width, depth = rng.uniform(0.04, 0.07), rng.uniform(10, 18)
        marks.append(Mark(points, width, depth, rng.uniform(0.65, 0.85)))
    return replace(gear, marks=tuple(marks))


def _soil(gear: Gear, rng: Generator) -> Gear:
    kind = int(rng.integers(len(DIRT)))
    count = rng.integers(1, 3)
    spots = [(_on_face(rng).tolist(), rng.uniform(0.075, 0.12), kind) for _ in range(count)]
    return replace(gear, dirt=tuple(spots))


DAMAGE = {
    "broken_tooth": _break_tooth,
    "contamination": _soil,
    "dent": _dent,
    "scratch": _scratch,
}
"""Functions that draw each defect type."""
