"""Tiles of large images (`data.tiles`): where they lie, and the tensors that a network sees.

An image is resized by `data.image_size / data.tiles.size`, by 1 at native resolution, and cut into
squares of the network's size. Tiles are spread evenly, so that they cover the image and overlap by
at least `data.tiles.overlap`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from torch import Tensor

from vqlab.data.images import with_gain
from vqlab.data.settings import DataSettings
from vqlab.data.synthetic_anomalies import draw_anomaly
from vqlab.errors import UserError
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.decoding import Pixels, require_rgb
from vqlab.pixels.resizing import (
    Geometry,
    Mask,
    brightness_gain,
    fit_image,
    resize_image,
    too_small,
)
from vqlab.types import Tile


def tile_grid(
    size: tuple[int, int], settings: DataSettings, inspected: Mask | None = None
) -> list[Tile]:
    """Return the tiles of an image of `size` (h, w) at the resolution of its tiles, row by row.

    inspected (h, w): tiles without an inspected pixel are skipped; None: all pixels.
    """
    side = settings.image_size
    overlap = round(side * settings.tiles.overlap)
    rows, columns = (_starts(length, side, overlap) for length in size)
    places = [(top, left) for top in rows for left in columns]
    if inspected is not None:
        places = [
            (top, left)
            for top, left in places
            if inspected[top : top + side, left : left + side].any()
        ]
    last = len(places) - 1
    return [
        Tile(size, top, left, side, overlap, number == 0, number == last)
        for number, (top, left) in enumerate(places)
    ]


@lru_cache(maxsize=256)
def _starts(length: int, side: int, overlap: int) -> tuple[int, ...]:
    """Return the first pixel of each tile along an axis."""
    count = 1 + max(0, math.ceil((length - side) / (side - overlap)))
    return tuple(round(i * (length - side) / max(1, count - 1)) for i in range(count))


def to_tiles(
    image: Pixels, settings: DataSettings, area: InspectedArea | None = None
) -> tuple[list[Tensor], list[Tile], Geometry]:
    """Convert an RGB image (H, W, 3) uint8 to the network input of its tiles, each (3, S, S)
    float32, as `ImageSet.tiled` does.

    area: inspected area; None: all pixels. Raises UserError as `to_network`, and for an image
    that is `too_small`.
    """
    require_rgb(image)
    reason = too_small((image.shape[0], image.shape[1]), settings)
    if reason:
        raise UserError(f"the image is too small: {reason}.")
    resized, geometry = fit_image(image if area is None else area.fill(image), settings)
    inspected = None if area is None else area.fitted(geometry.original, settings)
    gain = brightness_gain(resized, geometry, settings, inspected)
    tiles = tile_grid((resized.shape[0], resized.shape[1]), settings, inspected)
    return [with_gain(resized[tile.window], gain) for tile in tiles], tiles, geometry


def draw_in_window(
    image: Pixels,
    texture: Pixels,
    side: int,
    rng: np.random.Generator,
    kind: tuple[str, float | None, float | None],
    inspected: Mask | None,
) -> tuple[Pixels, Mask]:
    """Return a copy of an image (h, w, 3) with an anomaly in a random square, and its mask (h, w).

    texture: another normal image, of any size. side: of the square, at most that of the image.
    kind: kind, size and contrast, see `draw_anomaly`. inspected (h, w): where to draw; None:
    anywhere.
    """
    size = (image.shape[0], image.shape[1])
    side = min(side, *size)
    window = _window(size, side, rng, inspected)
    other = _window(texture.shape[:2], min(side, *texture.shape[:2]), rng)
    patch = resize_image(texture[other], side, side)
    inside = None if inspected is None else inspected[window]
    square = np.ascontiguousarray(image[window])
    result, mask = image.copy(), np.zeros(size, np.bool_)
    result[window], mask[window], _ = draw_anomaly(square, patch, rng, *kind, inside)
    return result, mask


def _window(
    size: tuple[int, ...], side: int, rng: np.random.Generator, inspected: Mask | None = None
) -> tuple[slice, slice]:
    """Return a random square of an image of `size` (h, w), around an inspected pixel."""
    if inspected is None:
        corner = [int(rng.integers(length - side + 1)) for length in size]
    else:
        pixels = np.flatnonzero(inspected)
        centre = divmod(int(pixels[rng.integers(len(pixels))]), size[1])
        starts = zip(centre, size, strict=True)
        corner = [min(max(0, place - side // 2), length - side) for place, length in starts]
    return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)
