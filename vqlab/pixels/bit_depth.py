"""Bit depth of image files, and reduction of more than 8 bits to 8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from vqlab.errors import UserError

ORIENTATION = 0x0112
"""EXIF and TIFF tag."""


class BadFile(UserError):
    """A file cannot be used. `path` and `reason` are for listing several files."""

    def __init__(self, path: Path, reason: str, remedy: str = "replace or remove it") -> None:
        super().__init__(f"file {path} cannot be used: {reason}; {remedy}.")
        self.path = path
        self.reason = f"{reason}; {remedy}" if "data.bits" in remedy else reason


def depth_of(image: Image.Image) -> int:
    """Return the bits per value of an image that is open and not loaded: 8, 16 or 32.

    0 for floating point and if the header states the highest value (PGM). The mode is not
    sufficient: Pillow reads 16-bit colours as 8 bits.
    """
    if image.mode.startswith("F"):
        return 0
    tile = getattr(image, "tile", None)
    codec = tile[0][0] if tile else ""
    if codec == "ppm":
        return 0 if image.mode.startswith("I") else 8
    raw = tile[0][3] if tile else ""
    raw = raw if isinstance(raw, str) else str(raw[0]) if raw else ""
    if ";16" in raw or image.mode.startswith("I;16"):
        return 16
    return 32 if image.mode == "I" else 8


def reduce_to_8_bits(values: NDArray[Any], path: Path, bits: int | None) -> NDArray[np.uint8]:
    """Reduce integers or floating point (0..1) to 8 bits, by the same scale for every file.

    bits: bit depth of the camera, see `data.bits`; None: 16. Raises BadFile for values out of
    range.
    """
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values).all() and low >= 0 and high <= 1):
            raise BadFile(
                path,
                f"its floating-point values must be within 0 and 1; got {low:.4g} to {high:.4g}",
                "divide the values of every file by the same number (255 for 8 bits, 4095 for 12, "
                "65535 for 16), or save them with 8 or 16 bits",
            )
        return np.round(values * 255).astype(np.uint8)
    most = 2 ** (bits or 16) - 1
    if low < 0:
        raise BadFile(
            path,
            f"its values must not be negative; got {low} to {high}",
            "save it with 8 or 16 bits",
        )
    if high > most:
        needed = int(high).bit_length()
        reason = f"its values exceed {most}, the maximum of {bits or 16} bits; got {high}"
        raise BadFile(
            path, reason, f"set data.bits to the bit depth of the camera, {needed} or more"
        )
    return (values.astype(np.uint32) >> ((bits or 16) - 8)).astype(np.uint8)


def reduce_colours(
    path: Path, bits: int, image: Image.Image, content: bytes | None = None
) -> Image.Image:
    """Read 16-bit colours with OpenCV and reduce them to 8 bits: upright, mode RGB or RGBA.

    image: the same file opened by Pillow, before its orientation is applied. content: bytes of the
    file; None: they are read from `path`.
    """
    orientation = image.getexif().get(ORIENTATION, 1)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ORIENTATION, 1) != 1:
        raise BadFile(path, "its 16-bit colours have an orientation tag", "save it upright")
    data = np.fromfile(path, np.uint8) if content is None else np.frombuffer(content, np.uint8)
    values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise BadFile(path, "its 16-bit colours cannot be used with data.bits", "save it as PNG")
    colours = reduce_to_8_bits(values[..., 2::-1], path, bits)
    if values.shape[2] == 4:
        colours = np.dstack([colours, (values[..., 3] >> 8).astype(np.uint8)])
    result = Image.fromarray(np.ascontiguousarray(colours))
    result.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(result)
