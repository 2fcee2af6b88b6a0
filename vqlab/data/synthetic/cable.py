"""`cable`: cut end of a power cable, three insulated stranded wires in a light grey sheath."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from vqlab.data.synthetic.surface import (
    PIXEL,
    UNIT,
    Array,
    Pose,
    Surface,
    around,
    clouds,
    fractal,
    streaks,
    to_line,
)

GREEN, BLUE, BROWN = range(3)
COLOURS = np.array([[0.17, 0.42, 0.20], [0.11, 0.24, 0.50], [0.38, 0.26, 0.19]], np.float32)
YELLOW = np.array([0.76, 0.67, 0.16], np.float32)
COPPER = np.array([0.88, 0.54, 0.36], np.float32)
REDNESS = (0, 0.07, 0.12)
"""Share of a strand's redness in each channel."""
SHEATH = np.array([0.72, 0.72, 0.70], np.float32)
VOID = np.array([0.10, 0.10, 0.11], np.float32)
WIRE, HOLE = 0.338, 0.232
"""Outer and inner radius of an insulation; the image spans [-1, 1]."""


@dataclass(frozen=True)
class Wire:
    """One insulated wire: centre, the colour of its insulation, its copper strands.

    strands (n, 7): x, y, radius, tilt x, tilt y, brightness, redness; present (n,) bool.
    """

    centre: tuple[float, float]
    colour: int
    hole_shift: tuple[float, float]
    stripe: float
    strands: Array
    present: Array
    exists: bool = True


@dataclass(frozen=True)
class Cut:
    """Material cut from the insulation (wire 0..2) or sheath (wire -1), along a line of points."""

    wire: int
    points: Array
    """(n, 2) in the cable's frame."""
    width: float
    rim: float
    """Height of the burr around it, `UNIT`."""


@dataclass(frozen=True)
class Bent:
    """A strand pulled out of its wire, along `points` (n, 2)."""

    points: Array
    radius: float
    brightness: float


@dataclass(frozen=True)
class Cable:
    """The cut end of a cable and its pose."""

    seed: int
    pose: Pose
    shades: tuple[float, ...]
    """Brightness of the three insulations, the sheath and the table, each about 1."""
    blade: float
    """Direction of the saw marks, rad."""
    wires: tuple[Wire, ...]
    cuts: tuple[Cut, ...] = ()
    bent: tuple[Bent, ...] = ()

    def surface(self) -> Surface:
        """Return the surface for the camera."""
        rng = np.random.default_rng(self.seed)
        surface = Surface(np.array([0.20, 0.205, 0.215]) * self.shades[4], -70, 0.05)
        surface.albedo *= 1 + 0.05 * fractal(rng, 6, 3) + 0.03 * streaks(rng, 0.3, 40)
        u, v = self.pose.grid()
        # A soft warp keeps the circles from being perfect.
        u, v = u + 0.008 * clouds(rng, 4), v + 0.008 * clouds(rng, 4)
        marks = 0.7 * streaks(rng, self.blade, 60) + 0.5 * streaks(rng, self.blade + 0.2, 15)
        grit = clouds(rng, 170)
        self._lay_sheath(surface, u, v, marks, grit, rng)
        for index, wire in enumerate(self.wires):
            fuzz = clouds(rng, 6)
            if wire.exists:
                self._lay_wire(surface, u, v, (marks, grit, fuzz), index)
        for bent in self.bent:
            x, y = bent.points.mean(0).tolist()
            where = self.pose.box(x, y, 0.35)
            away = to_line(u[where], v[where], bent.points)
            across = np.sqrt(np.clip(1 - (away / bent.radius) ** 2, 0, 1))
            tall = 6 + 2 * bent.radius / UNIT * across
            cover = around(away - bent.radius, 1.5 * PIXEL)
            surface.lay(cover, COPPER * bent.brightness, tall, 0.9, where)
        return surface

    def _cut_away(self, u: Array, v: Array, wire: int) -> tuple[Array, Array]:
        """Return coverage of the cuts in one wire and height of the burr, both (h, w)."""
        cover, rim = np.zeros_like(u), np.zeros_like(u)
        for cut in self.cuts:
            if cut.wire == wire:
                away = to_line(u, v, cut.points) - cut.width
                cover = np.maximum(cover, around(away, 1.5 * PIXEL))
                rim = rim + cut.rim * np.exp(-((np.maximum(away, 0) / 0.018) ** 2))
        return cover, rim

    def _lay_sheath(
        self, surface: Surface, u: Array, v: Array, marks: Array, grit: Array, rng: Generator
    ) -> None:
        radius = np.hypot(u, v)
        sine = v / np.maximum(radius, 1e-3)
        three = sine * (3 - 4 * sine * sine)  # sin 3a: the inside is wider where the wires lie
        inside = 0.736 + 0.016 * three + 0.006 * clouds(rng, 6)
        surface.lay(around(radius - inside - 0.03, 2 * PIXEL), VOID, -48, 0.02)
        cut, rim = self._cut_away(u, v, -1)
        wall = np.maximum(radius - 0.905, inside - radius)
        cover = around(wall, 2 * PIXEL) * (1 - cut)
        shade = self.shades[3] * (1 + 0.045 * marks + 0.02 * grit + 0.04 * fractal(rng, 5, 3))
        rounded = 5 * (1 - np.exp(np.clip(wall, -0.2, 0) / 0.018))
        height = rounded + rim + 0.4 * marks + 0.15 * grit
        surface.lay(cover, SHEATH[:, None, None] * shade, height, 0.10)

    def _lay_wire(
        self, surface: Surface, u: Array, v: Array, noise: tuple[Array, Array, Array], index: int
    ) -> None:
        wire = self.wires[index]
        left, top = wire.centre
        where = self.pose.box(left, top, WIRE + 0.03)
        marks, grit, fuzz = (each[where] for each in noise)
        x, y = u[where] - left, v[where] - top
        out = np.hypot(x, y) - WIRE - 0.006 * fuzz
        bore = np.hypot(x - wire.hole_shift[0], y - wire.hole_shift[1]) - HOLE - 0.004 * fuzz
        surface.lay(around(out, 2 * PIXEL), VOID * 0.9, -40, 0.02, where)
        cut, rim = self._cut_away(u[where], v[where], index)
        cover = around(np.maximum(out, -bore), 2 * PIXEL) * (1 - cut)
        colour = COLOURS[wire.colour][:, None, None]
        if wire.colour == GREEN:
            angle = np.arctan2(y, x) - wire.stripe
            stripe = np.clip((np.cos(2 * angle) + 0.15 + 0.05 * fuzz) * 14, 0, 1)
            colour = colour + stripe * (YELLOW[:, None, None] - colour)
        cut = 0.07 * marks + 0.03 * grit + 0.04 * fuzz
        edge = np.minimum(-out, bore)
        height = 1 + 5 * (1 - np.exp(-np.maximum(edge, 0) / 0.014)) + rim
        height += 0.5 * marks + 0.2 * grit
        shade = self.shades[wire.colour] * (1 + cut)
        surface.lay(cover, colour * shade, height, 0.16, where)
        self._lay_strands(surface, u, v, noise[0], wire)

    def _lay_strands(self, surface: Surface, u: Array, v: Array, marks: Array, wire: Wire) -> None:
        """Draw the cut faces of a wire's strands: small tilted copper discs with rounded edges.

        Vectorized over n windows of the image, one around each strand: (n, h, w).
        """
        strands = wire.strands[wire.present].astype(np.float32)
        if not len(strands):
            return
        x, y, radius, tilt_x, tilt_y, bright, red = strands.T[:, :, None, None]
        x, y = x + wire.centre[0], y + wire.centre[1]
        inside = self.pose.windows(x.ravel(), y.ravel(), 0.036)
        dx, dy = u.ravel()[inside] - x, v.ravel()[inside] - y
        away = np.hypot(dx, dy)
        flat = 3.5 * (1 - np.minimum(away / radius, 1) ** 4)
        height = flat - 2 + (tilt_x * dx + tilt_y * dy) / UNIT + 0.8 * marks.ravel()[inside]
        cover = around(away - radius, 1.5 * PIXEL)
        tones = [copper * bright * (1 + i * red) for copper, i in zip(COPPER, REDNESS, strict=True)]
        hit = cover > 0
        planes = (*surface.albedo, surface.height, surface.gloss)
        for plane, value in zip(planes, (*tones, height, 0.8), strict=True):
            below = plane.ravel()[inside[hit]]
            above = np.broadcast_to(np.float32(value), cover.shape)[hit]
            plane.ravel()[inside[hit]] = below + cover[hit] * (above - below)


def draw(rng: Generator) -> Cable:
    """Return a random normal cable."""
    return Cable(
        seed=int(rng.integers(2**31)),
        pose=Pose(
            rng.normal(0, 0.07),
            (rng.normal(0, 0.018), rng.normal(0, 0.018)),
            rng.uniform(0.97, 1.03),
        ),
        shades=tuple(np.exp(rng.normal(0, [0.10, 0.10, 0.10, 0.06, 0.15])).tolist()),
        blade=rng.uniform(0, np.pi),
        wires=tuple(_draw_wire(colour, rng) for colour in (GREEN, BLUE, BROWN)),
    )


def _draw_wire(colour: int, rng: Generator) -> Wire:
    angle = -math.pi / 2 + colour * 2 * math.pi / 3 + rng.normal(0, 0.05)
    distance = 0.394 + rng.normal(0, 0.006)
    places = _pack(rng)
    count = len(places)
    radius, tilt = rng.normal(0.0315, 0.0009, count), rng.normal(0, 0.24, (count, 2))
    bright, red = np.exp(rng.normal(0, 0.16, count)), rng.normal(0, 0.5, count)
    strands = np.column_stack([places, radius, tilt, bright, red])
    return Wire(
        centre=(distance * math.cos(angle), distance * math.sin(angle)),
        colour=colour,
        hole_shift=(rng.normal(0, 0.008), rng.normal(0, 0.008)),
        stripe=rng.normal(0.2, 0.5),
        strands=strands,
        present=np.ones(count, bool),
    )


def _pack(rng: Generator) -> Array:
    """(37, 2) centres of strands in rings of 1, 6, 12 and 18, pushed apart until they fit."""
    rings = []
    for ring, count in enumerate((1, 6, 12, 18)):
        angles = rng.uniform(0, 2 * math.pi) + 2 * math.pi * np.arange(count) / count
        rings.append(0.064 * ring * np.column_stack([np.cos(angles), np.sin(angles)]))
    places = np.concatenate(rings) + rng.normal(0, 0.006, (37, 2))
    for _ in range(6):
        offsets = places[:, None] - places[None]
        far = np.hypot(offsets[..., 0], offsets[..., 1]) + np.eye(37)
        push = np.clip(0.0625 - far, 0, None)[..., None] * offsets / far[..., None]
        places = places + 0.5 * push.sum(1)
        reach = np.hypot(places[:, :1], places[:, 1:])
        places = places * np.minimum(1, 0.197 / np.maximum(reach, 1e-6))
    return places
