"""Files with more than 8 bits: how many their values have, and how they become 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from vqlab.types import UserError

ORIENTATION = 0x0112
"""EXIF and TIFF tag."""


class BadFile(UserError):
    """A file that is not what its place says: `path` and `reason` for a list of several."""

    def __init__(self, path: Path, reason: str, remedy: str = "replace or remove it") -> None:
        super().__init__(f"file {path} cannot be used: {reason}; {remedy}.")
        self.path = path
        self.reason = f"{reason}; {remedy}" if "data.bits" in remedy else reason


def depth_of(image: Image.Image) -> int:
    """Return the bits of a value in the file of an image that is open and not yet loaded.

    8, 16 or 32; 0 for floating point and where the file's header says the highest value (PGM).
    Pillow reads colours of 16 bits as 8 bits, so that the mode does not tell.
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


def eight_bits(values: NDArray[Any], path: Path, bits: int | None) -> NDArray[np.uint8]:
    """Return integers or floating point (0..1) as 8 bits, by the same scale for every file.

    bits: how many of an integer's bits the camera used, see `data.bits`; None: 16.
    Raises BadFile for values beyond.
    """
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.floating):
        if not (np.isfinite(values).all() and low >= 0 and high <= 1):
            raise BadFile(
                path,
                f"its floating-point values are not within 0 and 1, but {low:.4g} to {high:.4g}",
                "divide the values of every file by the same number (255 for 8 bits, 4095 for 12, "
                "65535 for 16), or save with 8 or 16 bits",
            )
        return np.round(values * 255).astype(np.uint8)
    most = 2 ** (bits or 16) - 1
    if low < 0:
        raise BadFile(path, f"its values go from {low} to {high}", "save it with 8 or 16 bits")
    if high > most:
        needed = int(high).bit_length()
        reason = f"its values reach {high}, more than {bits or 16} bits hold ({most})"
        raise BadFile(
            path, reason, f"set data.bits to the bits that the camera used, {needed} or more"
        )
    return (values.astype(np.uint32) >> ((bits or 16) - 8)).astype(np.uint8)


def deep_colours(path: Path, bits: int, image: Image.Image) -> Image.Image:
    """Return the 16-bit colours of a file as 8 bits of `bits`, upright: mode RGB or RGBA.

    image: the same file as Pillow opened it, before it was turned.
    """
    turned = image.getexif().get(ORIENTATION, 1)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ORIENTATION, 1) != 1:
        raise BadFile(path, "its 16-bit colours are turned by a tag", "save it upright")
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise BadFile(path, "its 16-bit colours cannot be read with data.bits", "save it as PNG")
    colours = eight_bits(values[..., 2::-1], path, bits)
    if values.shape[2] == 4:
        colours = np.dstack([colours, (values[..., 3] >> 8).astype(np.uint8)])
    made = Image.fromarray(np.ascontiguousarray(colours))
    made.getexif()[ORIENTATION] = turned
    return ImageOps.exif_transpose(made)
