"""The image on which a synthetic anomaly is drawn: random positions, sizes and contrasts on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from vqlab.data.synthetic.surface import Array

Box = tuple[slice, slice]


@dataclass(frozen=True)
class Scene:
    """Inputs of drawing an anomaly."""

    image: Array
    """(H, W, 3) uint8."""
    texture: Array
    """(H, W, 3) uint8, another normal image."""
    saliency: Array
    """(h, w), coarse; sums to 1: probability of the position."""
    background: Array | None
    """(3,) colour of a plain background; None if there is none."""
    side: int
    boost: float
    """Factor on contrast; 1, and more after every attempt that was invisible."""
    size: float | None
    contrast: float | None
    """Positions in [0, 1] in a kind's range, small to large and faint to strong; None: random."""


def random_position(scene: Scene, rng: Generator) -> tuple[float, float]:
    """Return a random (x, y) in pixels, by saliency."""
    rows, columns = scene.saliency.shape
    cell = int(rng.choice(rows * columns, p=scene.saliency.ravel().astype(np.float64)))
    height, width = scene.image.shape[:2]
    x = (cell % columns + rng.random()) / columns * width
    return x, (cell // columns + rng.random()) / rows * height


def square(scene: Scene, x: float, y: float, reach: float) -> Box:
    """Return the square of half side `reach` (pixels) around a point, clipped to the image; never
    empty."""
    height, width = scene.image.shape[:2]
    top, left = min(max(0, int(y - reach)), height - 2), min(max(0, int(x - reach)), width - 2)
    bottom, right = max(top + 2, int(y + reach) + 2), max(left + 2, int(x + reach) + 2)
    return slice(top, min(height, bottom)), slice(left, min(width, right))


def blend(canvas: Array, box: Box, alpha: Array, colour: Array | float) -> None:
    """Blend `colour` (h, w, 3) or (3,) into a box of the image; `alpha` (h, w) in [0, 1]."""
    below = canvas[box].astype(np.float32)
    mixed = below + np.clip(alpha, 0, 1)[..., None] * (colour - below)
    canvas[box] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def random_size(scene: Scene, rng: Generator, low: float, high: float) -> float:
    """Return a length in pixels between two shares of the image's side, log-uniform."""
    position = rng.random() if scene.size is None else scene.size
    return math.exp(math.log(low) + position * math.log(high / low)) * scene.side


def random_contrast(scene: Scene, rng: Generator, low: float, high: float) -> float:
    """Return a strength between two limits, in their unit, times the scene's boost; uniform."""
    position = rng.random() if scene.contrast is None else scene.contrast
    return (low + position * (high - low)) * scene.boost
