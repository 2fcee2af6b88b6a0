"""Resize images to network size, correct their brightness, and resize maps back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from vqlab.pixels.decoding import Pixels, require_rgb

if TYPE_CHECKING:
    from vqlab.pixels.area import InspectedArea

Mask = NDArray[np.bool_]
"""(H, W), True on the defect, or where an image is inspected."""
BORDER_BRIGHTNESS = 0.5
"""Border brightness of every image after `brightness: border`."""
INPUT_UNIT = 32
"""Divisor of the sides of network inputs with `resize: aspect`."""
MIN_SIDE = 8
"""Minimum side of an image, in pixels, as a file and at network size."""


@dataclass(frozen=True)
class Geometry:
    """The original size (H, W) of an image and the box that it fills in the network's input."""

    original: tuple[int, int]
    box: tuple[int, int, int, int]
    """(top, left, height, width); the rest is padding (letterbox)."""

    @property
    def window(self) -> tuple[slice, slice]:
        """Index of the box in the network's input."""
        top, left, height, width = self.box
        return slice(top, top + height), slice(left, left + width)


class Resizing(Protocol):
    """Settings by which an image is resized: `DataSettings`, or those of an exported model."""

    @property
    def image_size(self) -> int: ...
    @property
    def resize(self) -> str: ...
    @property
    def brightness(self) -> str: ...
    @property
    def tile_size(self) -> int | None: ...


def too_small(size: tuple[int, int], settings: Resizing) -> str:
    """Return a message if an image of `size` (H, W) is smaller than a tile, or than `MIN_SIDE`
    without tiles, else an empty text."""
    tile = settings.tile_size
    if min(size) >= (tile or MIN_SIDE):
        return ""
    pixels = f"it is {size[1]}x{size[0]} pixels"
    if tile is None:
        return f"{pixels}, less than {MIN_SIDE} on a side"
    return f"{pixels}, smaller than a tile (data.tiles.size={tile})"


def box_for(size: tuple[int, int], settings: Resizing) -> Geometry:
    """Return the position of an image of `size` (H, W) in the network input."""
    side, tile = settings.image_size, settings.tile_size
    if tile is not None:
        height, width = (max(1, round(length * side / tile)) for length in size)
        return Geometry(size, (0, 0, height, width))
    if settings.resize != "letterbox":
        return Geometry(size, (0, 0, *input_shape(size, settings)))
    scale = side / max(size)
    height, width = (max(1, round(length * scale)) for length in size)
    return Geometry(size, ((side - height) // 2, (side - width) // 2, height, width))


def frame_of(geometry: Geometry, settings: Resizing) -> tuple[int, int]:
    """Return the size of an image with its padding: that of the network, or with tiles its own."""
    tiled = settings.tile_size is not None
    return geometry.box[2:] if tiled else input_shape(geometry.original, settings)


def input_shape(size: tuple[int, int], settings: Resizing) -> tuple[int, int]:
    """Return the shape (H, W) of the network input for an image of `size` (H, W), or for a tile.

    With `resize: aspect`, the sides of a rectangle of the image's aspect ratio and the area of the
    square, rounded to multiples of 32 (of a smaller power of two if `image_size` is not a multiple
    of 32), so that every level of a network has whole positions; else the square.
    """
    side = settings.image_size
    if settings.resize != "aspect" or settings.tile_size is not None:
        return side, side
    unit, ratio = math.gcd(side, INPUT_UNIT), math.sqrt(size[0] / size[1])
    height, width = (max(unit, round(side * r / unit) * unit) for r in (ratio, 1 / ratio))
    return height, width


def fit_image(image: Pixels, settings: Resizing) -> tuple[Pixels, Geometry]:
    """Resize (H, W, 3) to network size (h, w, 3) uint8; padding is black."""
    geometry = box_for((image.shape[0], image.shape[1]), settings)
    square = np.zeros((*frame_of(geometry, settings), 3), np.uint8)
    square[geometry.window] = resize_image(image, *geometry.box[2:])
    return square, geometry


def fit_mask(mask: Mask, settings: Resizing) -> Mask:
    """Resize (H, W) to network size (h, w): a pixel is True if it overlaps any True pixel."""
    geometry = box_for((mask.shape[0], mask.shape[1]), settings)
    square = np.zeros(frame_of(geometry, settings), np.bool_)
    square[geometry.window] = resize_mask(mask, geometry.box[2:])
    return square


def resize_mask(mask: Mask, size: tuple[int, ...]) -> Mask:
    """Resize (H, W) to `size` (h, w): a pixel is True if it overlaps any True pixel."""
    sums = np.asarray(cv2.integral(mask.astype(np.uint8)))
    (y0, y1), (x0, x1) = _spans(mask.shape[0], size[0]), _spans(mask.shape[1], size[1])
    rows = sums[y1] - sums[y0]
    return np.asarray(rows[:, x1] - rows[:, x0] > 0)


def _spans(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and one-past-last source pixel of each of `target` pixels."""
    steps = np.arange(target + 1, dtype=np.int64) * source
    return steps[:-1] // target, -(-steps[1:] // target)


def resize_image(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize each axis separately: area average to shrink, bilinear to enlarge."""
    shrunk = (min(height, image.shape[0]), min(width, image.shape[1]))
    for size, interpolation in ((shrunk, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            image = np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=interpolation))
    return image


def brightness_gain(
    square: Pixels, geometry: Geometry, settings: Resizing, inspected: Mask | None = None
) -> float | None:
    """Return the factor that corrects the brightness of an image; None: no correction.

    `brightness: border` scales the image so that the median grey of its border (a frame of 1/32 of
    the box) becomes 0.5; this compensates for different illumination. Borders darker than 0.05 are
    treated as 0.05. inspected (S, S): see `border_brightness`.
    """
    if settings.brightness == "keep":
        return None
    return BORDER_BRIGHTNESS / max(border_brightness(square, geometry, inspected), 0.05)


def to_float(square: Pixels, gain: float | None) -> NDArray[np.float32]:
    """Convert (S, S, 3) uint8 to (3, S, S) float32 in [0, 1], times `gain`, clipped at 1."""
    values = np.ascontiguousarray(square.transpose(2, 0, 1)).astype(np.float32)
    values /= 255
    if gain is not None:
        values *= gain
        np.minimum(values, 1, out=values)
    return values


def border_brightness(square: Pixels, geometry: Geometry, inspected: Mask | None = None) -> float:
    """Return the median grey, in [0, 1], of the box's `border_frame`.

    inspected (S, S): only these pixels count; all of them if the border has none.
    """
    box, frame = geometry.window, border_frame(geometry.box[2:])
    if inspected is not None:
        frame &= inspected[box]
        frame = frame if frame.any() else inspected[box]
    return float(np.median(square[box][frame].mean(axis=1))) / 255


def border_frame(size: tuple[int, ...]) -> Mask:
    """Return a frame of `size` (H, W): 1/32 of the shorter side wide, at least 1 pixel."""
    edge = max(1, min(size) // 32)
    frame = np.ones(size, np.bool_)
    frame[edge:-edge, edge:-edge] = False
    return frame


def network_input(
    image: Pixels, settings: Resizing, area: InspectedArea | None = None
) -> tuple[NDArray[np.float32], Geometry]:
    """Convert an RGB image (H, W, 3) uint8 to network input (3, S, S) float32 in [0, 1].

    area: inspected area; None: all pixels. Raises UserError for another shape or dtype, and for an
    aspect ratio that differs from the area's.
    """
    require_rgb(image)
    square, geometry = fit_image(image if area is None else area.fill(image), settings)
    inspected = None if area is None else area.fitted(geometry.original, settings)
    return to_float(square, brightness_gain(square, geometry, settings, inspected)), geometry


def to_original(square: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Resize (S, S[, C]) to the original size (H, W[, C]) float32, bilinear, without padding."""
    return resize_map(np.ascontiguousarray(square[geometry.window], np.float32), geometry.original)


def resize_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (h, w[, C]) float32 to `size` (H, W), bilinear."""
    large = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)
