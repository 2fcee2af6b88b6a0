"""Synthetic anomalies made from parts of the product, with outlines that follow its edges."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vqlab.data.scene import (
    Box,
    Scene,
    blend,
    random_contrast,
    random_position,
    random_size,
    square,
)
from vqlab.data.synthetic.surface import Array


def removed_part(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Remove a part: fill its outline from its surroundings, with the grain of the image."""
    box, _ = _around(scene, rng, 0.03, 0.2)
    part = _part(scene.image, box)
    filled = _filled(canvas[box], part)
    grain = canvas[box] - cv2.GaussianBlur(canvas[box], (0, 0), 1.0).astype(np.float32)
    filled = filled + 0.7 * rng.permutation(grain.reshape(-1, 3)).reshape(grain.shape)
    filled = filled + rng.choice([-1, 1]) * 25 * (scene.boost - 1)
    blend(canvas, box, _opacity(_grown(part, 1)), np.clip(filled, 0, 255))


def moved_part(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Move and turn a part by a fraction of its size, and fill the gap."""
    box, reach = _around(scene, rng, 0.04, 0.2)
    part = _part(scene.image, box)
    filled, (height, width) = _filled(canvas[box], part), part.shape
    angle, step = rng.uniform(0, 2 * math.pi), random_contrast(scene, rng, 0.15, 0.6) * reach
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.normal(0, 12), 1.0)
    matrix[:, 2] += step * math.cos(angle), step * math.sin(angle)
    piece = cv2.warpAffine(
        canvas[box].astype(np.float32), matrix, (width, height), borderMode=cv2.BORDER_REFLECT
    )
    alpha = cv2.warpAffine(_opacity(part), matrix, (width, height))
    moved = filled + alpha[..., None] * (piece - filled)
    blend(canvas, box, np.maximum(_opacity(_grown(part, 2)), alpha), moved)


def swapped_part(canvas: Array, scene: Scene, rng: Generator) -> None:
    """Replace a patch by a similar one from another position of the texture."""
    box, reach = _around(scene, rng, 0.04, 0.16)
    height, width = (side.stop - side.start for side in box)
    patch = np.ascontiguousarray(scene.image[box])
    cost = cv2.matchTemplate(scene.texture, patch, cv2.TM_SQDIFF)[::2, ::2]
    rows, columns = 2 * np.indices(cost.shape)
    near = np.hypot(rows - box[0].start, columns - box[1].start) < reach
    order = np.argsort(np.where(near, np.inf, cost), axis=None, kind="stable")
    share = random_contrast(scene, rng, 0.005, 0.3)
    place = order[min(int(share * len(order)), max(0, np.count_nonzero(~near) - 1))]
    top, left = rows.flat[place], columns.flat[place]
    piece = scene.texture[top : top + height, left : left + width].astype(np.float32)
    v, u = np.indices((height, width))
    inwards = np.minimum(np.minimum(u, width - 1 - u), np.minimum(v, height - 1 - v))
    blend(canvas, box, (inwards + 0.5) / 3, piece)


def _around(scene: Scene, rng: Generator, low: float, high: float) -> tuple[Box, float]:
    """Return a square around a random position, and its half side in pixels."""
    reach = max(4.0, random_size(scene, rng, low, high))
    return square(scene, *random_position(scene, rng), reach), reach


def _part(image: Array, box: Box) -> NDArray[np.bool_]:
    """Return the part (h, w) in the middle of a box, bounded by edges of the image (watershed from
    markers, Meyer 1994)."""
    patch = cv2.GaussianBlur(np.ascontiguousarray(image[box]), (0, 0), 0.8)
    height, width = patch.shape[:2]
    v, u = np.indices((height, width))
    radius = np.hypot((u - (width - 1) / 2) / width, (v - (height - 1) / 2) / height)
    markers = np.where(radius > 0.48, 2, 0).astype(np.int32)
    markers[radius <= max(0.12, float(radius.min()))] = 1
    return _grown(cv2.watershed(patch, markers) == 1, 1)


def _grown(part: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return a mask (h, w) dilated by `reach` pixels."""
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(part.astype(np.uint8), kernel) > 0)


def _opacity(part: NDArray[np.bool_]) -> Array:
    """Return a mask (h, w) as opacity, with an edge of about a pixel."""
    return np.asarray(cv2.GaussianBlur(part.astype(np.float32), (0, 0), 0.7))


def _filled(patch: Array, part: NDArray[np.bool_]) -> Array:
    """Return a patch (h, w, 3) float32 whose part is inpainted from its surroundings."""
    hole = _grown(part, 2).astype(np.uint8)
    filled = cv2.inpaint(np.ascontiguousarray(patch), hole, 4, cv2.INPAINT_TELEA)
    return np.asarray(filled.astype(np.float32))


DRAW_PRODUCT = {
    "removed_part": removed_part,
    "moved_part": moved_part,
    "swapped_part": swapped_part,
}
