"""Convert panels to pictures, and write pictures as PNG files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vqlab.pixels.decoding import Pixels
from vqlab.pixels.resizing import Geometry, to_original
from vqlab.types import UserError

_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
"""A single filter for all rows and a fast compression: less than half the time of the default
search for filters, files a tenth larger."""


def encode_png(pixels: Pixels) -> bytes:
    """Encode (H, W, 3) RGB or (H, W) uint8 as a PNG file."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".png", pixels, _FAST)[1])


def write_png(pixels: Pixels, path: Path) -> None:
    """Write (H, W, 3) or (H, W) uint8 as a PNG file, atomically. Raises UserError if it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encode_png(pixels))
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"picture {path} cannot be written: {error.strerror or error}.") from None


def picture_of(panel: NDArray[Any], geometry: Geometry) -> Pixels:
    """Convert (3, S, S) in [0, 1] to (H, W, 3) uint8, by channel to save memory."""
    picture: Pixels = np.empty((*geometry.original, len(panel)), np.uint8)
    for index, channel in enumerate(panel):
        values = to_original(channel, geometry)
        values.clip(0, 1, out=values)
        values *= 255
        picture[..., index] = values.round(out=values)
    return picture
