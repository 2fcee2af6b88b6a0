"""`gear`: a steel spur gear lying on a table, turned any way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

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

TEETH = 22
ROOT, TIP, BORE = 0.66, 0.80, 0.185
"""Radii of the tooth gaps, the tooth tips and the bore; the picture spans [-1, 1]."""
STEEL = np.array([0.56, 0.57, 0.60], np.float32)
TABLE = np.array([0.50, 0.46, 0.41], np.float32)
DIRT = np.array([[0.13, 0.10, 0.07], [0.42, 0.20, 0.08], [0.62, 0.60, 0.55]], np.float32)
"""Grease, rust, dust."""
TALL = 26.0
"""Thickness of the gear, `UNIT`."""


@dataclass(frozen=True)
class Mark:
    """A line (scratch) or a spot (dent: its points lie close together) pressed into the face."""

    points: Array
    """(n, 2) in the gear's own frame."""
    width: float
    depth: float
    bright: float


@dataclass(frozen=True)
class Gear:
    """The gear, how it lies, and what is wrong with it."""

    seed: int
    pose: Pose
    shades: tuple[float, float]
    """Brightness of the steel and of the table."""
    worn: tuple[float, ...]
    """How much of each tooth is left: 1 whole, 0 gone."""
    marks: tuple[Mark, ...] = ()
    dirt: tuple[tuple[Array, float, int], ...] = ()
    """Centre (2,), radius and index into DIRT of every spot of dirt."""

    def surface(self) -> Surface:
        """What the camera sees."""
        rng = np.random.default_rng(self.seed)
        surface = Surface(TABLE * self.shades[1], -TALL, 0.02)
        surface.albedo *= 1 + 0.05 * fractal(rng, 5, 4) + 0.05 * clouds(rng, 150)
        u, v = self.pose.grid()
        radius, angle = np.hypot(u, v), np.arctan2(v, u)
        grit = clouds(rng, 200)
        out = self._outline(radius, angle, u, v)
        rings = _lathe(radius, rng)
        shade = self.shades[0] * (1 + 0.05 * fractal(rng, 4, 3) + 0.03 * rings + 0.02 * grit)
        surface.lay(
            around(out, 2 * PIXEL),
            STEEL[:, None, None] * shade,
            self._relief(out, radius, rings, grit, streaks(rng, self.pose.turn, 40)),
            0.55,
        )
        for mark in self.marks:
            self._press(surface, u, v, mark)
        for centre, size, kind in self.dirt:
            self._smear(surface, u, v, centre, size, kind, rng)
        return surface

    def _outline(self, radius: Array, angle: Array, u: Array, v: Array) -> Array:
        """Signed distance (S, S), about, to the gear's outline; negative on the steel."""
        turns = (angle / (2 * math.pi)) % 1.0 * TEETH
        tooth = np.array(self.worn, np.float32)[np.minimum(turns.astype(np.int32), TEETH - 1)]
        aside = np.abs(turns % 1.0 - 0.5)  # 0 in the middle of a tooth, 0.5 between two
        flank = np.clip((0.34 - aside) / 0.17, 0, 1)
        flank = flank * flank * (3 - 2 * flank)
        out = (radius - ROOT - (TIP - ROOT) * flank * tooth) * 0.75
        keyway = np.maximum(np.abs(u) - 0.05, np.abs(v + BORE) - 0.075)
        bore = np.minimum(radius - BORE, keyway)
        for hole in range(5):
            x, y = polar(2 * math.pi * hole / 5 + 0.31, 0.42).tolist()
            bore = np.minimum(bore, np.hypot(u - x, v - y) - 0.085)
        return np.maximum(out, -bore)

    def _relief(
        self, out: Array, radius: Array, rings: Array, grit: Array, brushed: Array
    ) -> Array:
        """Height (S, S): raised hub and rim, a turned face between them, chamfered edges."""
        hub = np.clip((0.285 - radius) / 0.02, 0, 1)
        rim = np.clip((radius - 0.555) / 0.02, 0, 1)
        chamfer = 3 * (1 - np.exp(np.minimum(out, 0) / 0.012))
        face = np.maximum(hub, rim)
        marks = 0.18 * rings * (1 - face) + 0.22 * brushed * face + 0.12 * grit
        return np.asarray(7 * face + chamfer + marks)

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

    def _smear(
        self,
        surface: Surface,
        u: Array,
        v: Array,
        centre: Array,
        size: float,
        kind: int,
        rng: np.random.Generator,
    ) -> None:
        x, y = centre.tolist()
        edge = np.hypot(u - x, v - y) - size * (1 + 0.30 * fractal(rng, 9, 3))
        cover = around(edge, 0.35 * size) * np.clip(0.85 + 0.25 * clouds(rng, 60), 0, 1)
        tones = DIRT[kind][:, None, None] * (1 + 0.15 * clouds(rng, 90))
        surface.lay(cover, tones, surface.height + 1.5 + clouds(rng, 90), 0.3 if kind == 0 else 0.0)


def _lathe(radius: Array, rng: np.random.Generator) -> Array:
    """Fine concentric turning marks (S, S), deviation about 1."""
    profile = rng.standard_normal(260).astype(np.float32)
    place = np.minimum(radius * 180, 258)
    low = place.astype(np.int32)
    share = place - low.astype(np.float32)
    return np.asarray(profile[low] * (1 - share) + profile[low + 1] * share)


def draw(rng: np.random.Generator) -> Gear:
    """A flawless gear, turned any way."""
    return Gear(
        seed=int(rng.integers(2**31)),
        pose=Pose(
            turn=float(rng.uniform(0, 2 * math.pi)),
            shift=(float(rng.normal(0, 0.03)), float(rng.normal(0, 0.03))),
            size=float(rng.uniform(0.94, 1.04)),
        ),
        shades=(float(np.exp(rng.normal(0, 0.08))), float(np.exp(rng.normal(0, 0.08)))),
        worn=(1.0,) * TEETH,
    )


def damage(gear: Gear, defect: str, rng: np.random.Generator) -> Gear:
    """The same gear with a defect of the named type (one of `DEFECTS`)."""
    return _DAMAGE[defect](gear, rng)


def _break_tooth(gear: Gear, rng: np.random.Generator) -> Gear:
    first, count = int(rng.integers(TEETH)), int(rng.choice([1, 1, 2, 3]))
    worn = list(gear.worn)
    for tooth in range(first, first + count):
        worn[tooth % TEETH] = float(rng.choice([0.0, 0.2, 0.45]))
    return replace(gear, worn=tuple(worn))


def _on_face(rng: np.random.Generator) -> Array:
    """A point (2,) on the steel, clear of the holes."""
    return polar(rng.uniform(0, 2 * math.pi), float(rng.choice([rng.uniform(0.54, 0.64), 0.24])))


def _scratch(gear: Gear, rng: np.random.Generator) -> Gear:
    heading = rng.uniform(0, 2 * math.pi)
    points = [polar(rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 0.6))]
    for _ in range(int(rng.integers(4, 9))):
        points.append(points[-1] + polar(heading, 0.06))
        heading += rng.normal(0, 0.2)
    mark = Mark(
        points=np.array(points),
        width=float(rng.uniform(0.007, 0.013)),
        depth=float(rng.uniform(2.5, 6)),
        bright=float(rng.choice([0.6, 1.5])),
    )
    return replace(gear, marks=(*gear.marks, mark))


def _dent(gear: Gear, rng: np.random.Generator) -> Gear:
    marks = list(gear.marks)
    for _ in range(int(rng.integers(1, 4))):
        spot = _on_face(rng)
        marks.append(
            Mark(
                points=np.stack([spot, spot + rng.normal(0, 0.015, 2)]),
                width=float(rng.uniform(0.025, 0.045)),
                depth=float(rng.uniform(6, 13)),
                bright=float(rng.uniform(0.75, 0.95)),
            )
        )
    return replace(gear, marks=tuple(marks))


def _soil(gear: Gear, rng: np.random.Generator) -> Gear:
    kind = int(rng.integers(len(DIRT)))
    spots = tuple(
        (_on_face(rng), float(rng.uniform(0.035, 0.11)), kind) for _ in range(rng.integers(1, 4))
    )
    return replace(gear, dirt=spots)


_DAMAGE: dict[str, Callable[[Gear, np.random.Generator], Gear]] = {
    "broken_tooth": _break_tooth,
    "contamination": _soil,
    "dent": _dent,
    "scratch": _scratch,
}
DEFECTS = tuple(_DAMAGE)
