"""Synthetic anomalies: defects drawn on normal images, with exact masks, for choosing settings.

They do not imitate a particular product. No kind ranks settings best on every product: thin ones
agree with real cracks, patches of texture with real stains and breaks. All kinds are used, from
specks to a tenth of the image and more (docs/validation.md).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vqlab.data.anomaly_kinds import DRAW_GENERIC, ON_OBJECT, spot
from vqlab.data.product_kinds import DRAW_PRODUCT
from vqlab.data.scene import Scene
from vqlab.data.synthetic.surface import Array

SYNTHETIC_PREFIX = "drawn_"
"""Prefix of the kind, in the defect type of an image with a synthetic anomaly."""
GENERIC = {
    "scratch": 0.27,
    "blob": 0.27,
    "cut_paste": 0.15,
    "scar": 0.12,
    "missing": 0.12,
    "noise": 0.07,
}
"""Probability of each kind that suits any image."""
_PRODUCT = 0.4
"""Total probability of the kinds made from parts of the product, which are equally probable."""
SHARES = {kind: share * (1 - _PRODUCT) for kind, share in GENERIC.items()} | dict.fromkeys(
    DRAW_PRODUCT, _PRODUCT / len(DRAW_PRODUCT)
)
"""Probability of each kind."""
KINDS = tuple(SHARES)
_DRAW = {**DRAW_GENERIC, **DRAW_PRODUCT}
VISIBLE = 10
"""Smallest difference in grey levels (of 255, in any channel) of a pixel in the mask."""
MAX_ATTEMPTS = 8


def draw_anomaly(
    image: NDArray[np.uint8],
    texture: NDArray[np.uint8],
    rng: Generator,
    kind: str | None = None,
    size: float | None = None,
    contrast: float | None = None,
    inside: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], str]:
    """Return a copy of the image with an anomaly, its mask (H, W) bool, and its kind.

    image, texture: (H, W, 3) uint8 of one size, at least 3 pixels per side; the texture is another
    normal image, from which patches are copied. kind: one of `KINDS`; None: random, by `SHARES`.
    size, contrast: positions in [0, 1] in the range of the kind, 0 the smallest or faintest that
    is visible; None: random. inside: (H, W) bool, not empty, where to draw; None: anywhere. The
    mask contains the pixels that differ visibly, with gaps of a pixel or two closed; it is never
    empty. The same generator state gives the same result. Raises ValueError for other shapes,
    kinds or positions.
    """
    _validate(image, texture, kind, size, contrast)
    if kind is None:
        kind = KINDS[int(rng.choice(len(KINDS), p=list(SHARES.values())))]
    saliency, background = _saliency(image)
    if inside is not None:
        saliency = _within(saliency, inside)
    side = min(image.shape[:2])
    for attempt in range(MAX_ATTEMPTS):
        larger = None if size is None else size + (1 - size) * attempt / MAX_ATTEMPTS
        boost = 1 + attempt / 2
        scene = Scene(image, texture, saliency, background, side, boost, larger, contrast)
        canvas = image.copy()
        _DRAW[kind](canvas, scene, rng)
        if background is not None and kind in ON_OBJECT and rng.random() < 0.8:
            canvas = np.where(_foreground(image, background)[..., None], canvas, image)
        if inside is not None:
            canvas = np.where(inside[..., None], canvas, image)
        mask = _changed(image, canvas)
        if mask.sum() >= max(4, side * side // 8192) and mask.mean() < 0.5:
            return canvas, mask, kind
    canvas = image.copy()
    spot(canvas, scene, rng, None if inside is None else _middle(inside))
    if inside is not None:
        canvas = np.where(inside[..., None], canvas, image)
    return canvas, _changed(image, canvas), kind


def _validate(image: Array, texture: Array, kind: str | None, *positions: float | None) -> None:
    for name, array in (("image", image), ("texture", texture)):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"{name} must be (H, W, 3) uint8; got {array.shape} {array.dtype}.")
    if image.shape != texture.shape or min(image.shape[:2]) < 3:
        raise ValueError(
            "image and texture must have the same size, at least 3 x 3 pixels; "
            f"got {image.shape} and {texture.shape}."
        )
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    for position in positions:
        if position is not None and not 0 <= position <= 1:
            raise ValueError(f"size and contrast must be within 0 and 1; got {position}.")


def _changed(before: Array, after: Array) -> NDArray[np.bool_]:
    """Return the mask (H, W) of the visible difference, with pinholes closed."""
    visible = (_largest(cv2.absdiff(before, after)) >= VISIBLE).astype(np.uint8)
    reach = max(1, round(min(before.shape[:2]) / 256))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    padded = cv2.copyMakeBorder(visible, reach, reach, reach, reach, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)
    return np.asarray(closed[reach:-reach, reach:-reach] > 0)


def _largest(values: Array) -> Array:
    """Return the largest of three channels (H, W), several times faster than `max(axis=2)`."""
    return np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])


def _saliency(image: Array) -> tuple[Array, Array | None]:
    """Return the probability of a defect in every coarse cell (h, w), and a plain background's
    colour.

    If the image's border has one colour, places that look like it get a low probability; otherwise
    it is uniform.
    """
    height, width = image.shape[:2]
    scale = 64 / max(height, width)
    size = (max(4, round(width * scale)), max(4, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    rim = np.concatenate([small[:2].reshape(-1, 3), small[-2:].reshape(-1, 3)])
    rim = np.concatenate([rim, small[:, :2].reshape(-1, 3), small[:, -2:].reshape(-1, 3)])
    colour = np.median(rim, axis=0)
    plain = np.abs(rim - colour).max(axis=1)
    difference = _largest(np.abs(small - colour))
    if np.quantile(plain, 0.8) > 18 or (difference > 25).mean() < 0.02:
        return np.full(size[::-1], 1 / (size[0] * size[1])), None
    weight = cv2.GaussianBlur((difference > 25).astype(np.float32), (0, 0), 1.0) + 0.02
    return weight / weight.sum(dtype=np.float64), colour


def _within(saliency: Array, inside: Array) -> Array:
    """Return the probability of every coarse cell, restricted to cells that are mostly inside, or
    else to those that overlap."""
    size = saliency.shape[::-1]
    share = cv2.resize(inside.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    weight = saliency * (share > 0.5 if (share > 0.5).any() else share > 0)
    return np.asarray(weight / weight.sum(dtype=np.float64))


def _middle(inside: Array) -> tuple[float, float]:
    """Return (x, y) of the pixel that is deepest inside."""
    padded = np.pad(inside.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def _foreground(image: Array, background: Array) -> Array:
    """Return the pixels (H, W) bool of the object on a plain background, with reflections."""
    differs = _largest(np.abs(image - background.astype(np.float32))) > 20
    reach = max(3, min(image.shape[:2]) // 20) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))
    return np.asarray(cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0)
