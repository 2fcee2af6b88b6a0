"""How each generic kind of synthetic anomaly is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.random import Generator

from vqlab.data.scene import (
    Box,
    Scene,
    blend,
    random_contrast,
    random_position,
    random_size,
    square,
)
from vqlab.data.synthetic.surface import Array, clouds


def _grid(box: Box) -> tuple[Array, Array]:
    """Return (x, y) of the pixel centres in a box, shapes (1, w) and (h, 1)."""
    rows, columns = box
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5
    return x, np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5


def _noise_field(box: Box, cells: int, rng: Generator) -> Array:
    """Return smooth noise (h, w) over a box, with `cells` bumps and finer ones."""
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    side = max(height, width, 4 * cells)
    noise = clouds(rng, cells, side) + 0.5 * clouds(rng, 2 * cells, side)
    return np.asarray(noise[:height, :width])


def _width(scene: Scene, rng: Generator, low: float, high: float) -> float:
    """Return a random width of a thin anomaly, as `random_size` but independent of `scene.size`."""
    return random_size(replace(scene, size=None), rng, low, high)


def _tone(local: Array, scene: Scene, rng: Generator) -> Array:
    """Return a colour (3,) that differs from `local` (3,): darker or brighter, sometimes tinted."""
    shift = random_contrast(scene, rng, 28, 95)
    grey = float(local.mean())
    up = rng.random() < 1 / (1 + math.exp((grey - 115) / 25))
    tint = rng.normal(0, 1, 3) * (14 if rng.random() < 0.4 else 2)
    colour: Array = np.clip(local + (shift if up else -shift) + tint, 0, 255)
    return colour


def _scratch(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Draw one to three thin curved lines, brighter or darker, of varying strength."""
    heading = rng.uniform(0, 2 * math.pi)
    width = max(0.7, _width(scene, rng, 0.0035, 0.02))
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        x, y = random_position(scene, rng)
        length = random_size(scene, rng, 0.10, 0.70)
        turn, bend = heading + rng.normal(0, 0.3), rng.normal(0, 0.06)
        box = square(scene, x, y, length / 2 + 4 * width)
        u, v = _grid(box)
        nearest = np.full((v.shape[0], u.shape[1]), np.inf, np.float32)
        fade = np.zeros_like(nearest)
        strength = np.clip(rng.normal(0.85, 0.25, 13), 0.15, 1)
        px = x - 0.5 * length * math.cos(turn)
        py = y - 0.5 * length * math.sin(turn)
        for step in range(12):
            dx, dy = length / 12 * math.cos(turn), length / 12 * math.sin(turn)
            share = np.clip(((u - px) * dx + (v - py) * dy) / (dx * dx + dy * dy), 0, 1)
            distance = np.hypot(u - px - share * dx, v - py - share * dy)
            closer = distance < nearest
            nearest = np.where(closer, distance, nearest)
            along = strength[step] + share * (strength[step + 1] - strength[step])
            fade = np.where(closer, along.astype(np.float32), fade)
            px, py = px + dx, py + dy
            turn += bend + rng.normal(0, 0.12)
        local = canvas[box].reshape(-1, 3).mean(0)
        alpha = np.clip(1 + width - nearest, 0, 1) * fade * min(1.0, 0.85 * scene.boost)
        blend(canvas, box, alpha, _tone(local, scene, rng))


def _blob(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Draw one to three stains or specks with an irregular, more or less soft edge."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        size = max(1.2, random_size(scene, rng, 0.015, 0.18))
        x, y = random_position(scene, rng)
        box = square(scene, x, y, 2.2 * size)
        soft = size * rng.uniform(0.1, 0.6) + 0.7
        alpha = np.clip(0.5 - _oval(box, x, y, size, rng) / soft, 0, 1) * rng.uniform(0.55, 1)
        local = canvas[square(scene, x, y, 0.7 * size)].reshape(-1, 3).mean(0)
        colour = _tone(local, scene, rng)
        if rng.random() < 0.5:  # a translucent stain
            colour = np.clip(canvas[box] * (colour / np.maximum(local, 1)), 0, 255)
        blend(canvas, box, alpha, colour)


def _rotated(box: Box, x: float, y: float, turn: float) -> tuple[Array, Array]:
    """Return the coordinates (h, w) of the pixels of a box along and across the direction `turn`
    (rad), from (x, y)."""
    u, v = _grid(box)
    cos, sin = math.cos(turn), math.sin(turn)
    return (u - x) * cos + (v - y) * sin, (v - y) * cos - (u - x) * sin


def _oval(box: Box, x: float, y: float, size: float, rng: Generator) -> Array:
    """Return the approximate signed distance (h, w) in pixels to an irregular oval of radius
    `size`; negative inside."""
    along, across = _rotated(box, x, y, rng.uniform(0, math.pi))
    ratio = float(np.exp(rng.uniform(0, 0.8)))
    uneven = 0 if size < 2 else 0.16 * _noise_field(box, 4, rng)
    distance: Array = np.hypot(along / ratio**0.5, across * ratio**0.5) - size * (1 + uneven)
    return distance


def _patch(box: Box, scene: Scene, rng: Generator) -> Array:
    """Return a patch (h, w, 3) float32 of texture from elsewhere, flipped and re-lit."""
    height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
    rows, columns = scene.texture.shape[:2]
    x, y = random_position(scene, rng)
    top = min(max(0, int(y - height / 2)), rows - height)
    left = min(max(0, int(x - width / 2)), columns - width)
    piece = scene.texture[top : top + height, left : left + width].astype(np.float32)
    piece = piece[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))]
    # Each attempt changes brightness more, so that a patch of a uniform surface becomes visible.
    light = 1 + rng.choice([-1, 1]) * random_contrast(scene, rng, 0.05, 0.25)
    piece = piece * light + rng.choice([-1, 1]) * rng.uniform(0, 20) * (scene.boost - 0.5)
    return np.asarray(np.clip(piece, 0, 255))


def _cut_paste(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Paste a rotated rectangle of the texture (Li et al., CutPaste, CVPR 2021), edge irregular."""
    at = random_position(scene, rng)
    size = max(2.0, random_size(scene, rng, 0.03, 0.22))
    _paste(canvas, scene, rng, at, size, float(np.exp(rng.uniform(0, 1.0))))


def _scar(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Paste a long thin rotated piece of the texture (CutPaste, "scar")."""
    for _ in range(int(rng.integers(1, 3))):
        at = random_position(scene, rng)
        long, wide = random_size(scene, rng, 0.06, 0.30), max(1.0, _width(scene, rng, 0.008, 0.04))
        _paste(canvas, scene, rng, at, (long * wide) ** 0.5, max(1.0, long / wide))


def _paste(
    canvas: Array, scene: Scene, rng: Generator, at: tuple[float, float], size: float, ratio: float
) -> None:
    """Paste texture on a rotated rectangle of half sides size * ratio^±½ at (x, y)."""
    box = square(scene, *at, size * ratio**0.5 * 1.5 + 2)
    along, across = _rotated(box, *at, rng.uniform(0, math.pi))
    along, across = np.abs(along) - size * ratio**0.5, np.abs(across) - size / ratio**0.5
    uneven = min(0.12 * size, 3.0) * _noise_field(box, 5, rng) if size > 4 else 0
    alpha = np.clip(0.5 - (np.maximum(along, across) + uneven) / 1.5, 0, 1)
    blend(canvas, box, alpha, _patch(box, scene, rng))


def _noise(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Blend texture in where fractal noise is high (Zavrtanik et al., DRAEM, ICCV 2021)."""
    x, y = random_position(scene, rng)
    size = max(3.0, random_size(scene, rng, 0.06, 0.28))
    box = square(scene, x, y, 2 * size)
    noise = _noise_field(box, int(rng.integers(4, 9)), rng)
    u, v = _grid(box)
    near = np.clip(1.6 - np.hypot(u - x, v - y) / size, -1, 1)
    alpha = np.clip((noise + 1.5 * near - 1.2) * rng.uniform(2, 6), 0, 1) * rng.uniform(0.6, 1)
    blend(canvas, box, alpha, _patch(box, scene, rng))


def _missing(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Remove a part: fill it with the background if there is one, else with its surroundings."""
    x, y = random_position(scene, rng)
    size = max(2.0, random_size(scene, rng, 0.03, 0.20))
    box = square(scene, x, y, 2.2 * size + 3)
    distance = _oval(box, x, y, size, rng)
    fill = _inpaint(canvas[box], distance)
    if scene.background is not None and rng.random() < 0.5:
        fill = np.broadcast_to(scene.background.astype(np.float32), fill.shape)
    grain = rng.normal(0, 2, fill.shape[:2]).astype(np.float32)[..., None]
    shade = scene.boost - 1  # uniform surroundings hide a hole: later attempts darken it
    local = float(fill.mean())
    fill = fill + grain + (-40 if local > 110 else 40) * shade
    blend(canvas, box, np.clip(0.5 - distance / 1.5, 0, 1), np.clip(fill, 0, 255))


def _inpaint(patch: Array, distance: Array) -> Array:
    """Fill a hole (distance < 0) from its surroundings, smoothly: (h, w, 3) float32."""
    height, width = distance.shape
    scale = min(1.0, 48 / max(height, width))
    size = (max(2, round(width * scale)), max(2, round(height * scale)))
    small = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
    hole = cv2.resize((distance < 1.5).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    filled = cv2.inpaint(small, hole, 3, cv2.INPAINT_TELEA)
    smooth: Array = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)
    return smooth.astype(np.float32)


def spot(
    canvas: Array, scene: Scene, rng: Generator, at: tuple[float, float] | None = None
) -> None:
    """Draw a plain spot that is visible on any image, at a random position or `at` (x, y): the
    fallback."""
    x, y = at or random_position(scene, rng)
    size = max(2.0, 0.03 * scene.side)
    box = square(scene, x, y, size + 2)
    u, v = _grid(box)
    alpha = np.clip(0.5 - (np.hypot(u - x, v - y) - size), 0, 1)
    local = float(canvas[box].mean())
    blend(canvas, box, alpha, 20.0 if local > 128 else 235.0)


DRAW_GENERIC: dict[str, Callable[[Array, Scene, Generator], None]] = {
    "scratch": _scratch,
    "blob": _blob,
    "cut_paste": _cut_paste,
    "scar": _scar,
    "missing": _missing,
    "noise": _noise,
}


ON_OBJECT = ("scratch", "blob", "scar", "noise")
"""Kinds that are mostly clipped to the object."""
