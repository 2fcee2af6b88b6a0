"""Decode image files as RGB arrays."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from vqlab.errors import UserError
from vqlab.pixels.bit_depth import BadFile, depth_of, reduce_colours, reduce_to_8_bits

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""Raised by Pillow for damaged files."""


@dataclass(frozen=True)
class Decoded:
    """First frame of a file, upright, in the mode of the file."""

    image: Image.Image
    depth: int
    """Bits per value in the file, see `depth_of`."""
    lossy: str
    """Name of the format if it is lossy (by content, not by file name); empty if lossless."""


def read_image(path: Path | str, bits: int | None = None) -> Pixels:
    """Read an image as (H, W, 3) uint8 RGB, with its EXIF orientation applied.

    16-bit values are reduced to their high byte, or to the highest 8 of `bits` bits (`data.bits`):
    the same scale for every file. Transparency becomes white; only the first frame is read.
    Raises BadFile (a UserError) that names the file.
    """
    path = Path(path)
    return rgb_of(decode(path, bits), path, bits)


def decode(path: Path, bits: int | None = None) -> Decoded:
    """Decode an image file. Raises BadFile (a UserError) that names the file.

    bits: bit depth from which 16-bit colours are reduced to 8 bits.
    """
    try:
        with Image.open(path) as image:
            return load_upright(image, path, bits)
    except BadFile:
        raise
    except FileNotFoundError:
        raise BadFile(path, "it does not exist", "check the path") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        reason = "it is empty" if empty else "unsupported or corrupt image"
        raise BadFile(path, reason) from None
    except PermissionError:
        raise BadFile(path, "permission denied") from None
    except Image.DecompressionBombError:
        raise BadFile(path, "it has too many pixels", "split it into smaller images") from None
    except UNDECODABLE:
        raise BadFile(path, "it is truncated or damaged") from None


def load_upright(
    image: Image.Image, path: Path, bits: int | None = None, content: bytes | None = None
) -> Decoded:
    """Decode an opened image and apply its EXIF orientation; `path` is used in errors.

    content: bytes of the file if it is not at `path`.
    """
    depth = depth_of(image)
    image.load()
    _reject_misread_tiff(image, path)
    lossy = _lossy_format(image, path)
    if bits is not None and depth == 16 and not image.mode.startswith("I"):
        return Decoded(reduce_colours(path, bits, image, content), depth, lossy)
    return Decoded(ImageOps.exif_transpose(image), depth, lossy)


def _lossy_format(image: Image.Image, path: Path) -> str:
    """Return the name of the image's format if it is lossy, else an empty string."""
    if image.format in ("JPEG", "MPO", "JPEG2000", "AVIF"):
        return "JPEG" if image.format == "MPO" else str(image.format)
    if image.format == "TIFF" and "jpeg" in str(image.info.get("compression")):
        return "TIFF with JPEG compression"
    if image.format == "WEBP" and path.is_file() and _webp_is_lossy(path):
        return "lossy WebP"
    return ""


def _webp_is_lossy(path: Path) -> bool:
    """Return whether the first frame of a WebP file is `VP8 `, not the lossless `VP8L`."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            if kind in (b"VP8 ", b"VP8L"):
                return kind == b"VP8 "
            # an animation frame has a header of 16 bytes, then chunks
            file.seek(16 if kind == b"ANMF" else size + size % 2, 1)
    return True


def _reject_misread_tiff(image: Image.Image, path: Path) -> None:
    """Reject two kinds of 16-bit TIFF that Pillow reads wrongly without an error."""
    if isinstance(image, TiffImageFile) and max(image.tag_v2.get(258, (8,))) > 8:
        reason = ""
        if image.mode == "RGB" and image.tag_v2.get(284) == 2:
            reason = "its 16-bit colours are stored in separate planes"
        elif image.mode.startswith("I") and image.tag_v2.get(262) == 0:
            reason = "its 16-bit grey values are inverted (0 is white)"
        if reason:
            raise BadFile(path, reason, "save it as PNG")


def rgb_of(decoded: Decoded, path: Path, bits: int | None = None) -> Pixels:
    """Convert an image of any mode to (H, W, 3) uint8 RGB, see `read_image`. Raises BadFile."""
    image = decoded.image
    if image.mode.startswith(("I", "F")):
        scale = bits if decoded.depth else None  # 0: the header states the highest value
        grey = reduce_to_8_bits(np.asarray(image), path, scale)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    try:
        return np.ascontiguousarray(image.convert("RGB"))
    except ValueError:
        reason = f"its colour mode {image.mode} is not supported"
        raise BadFile(path, reason, "save it as RGB") from None


def require_rgb(image: Pixels) -> None:
    """Raise UserError unless an image is (H, W, 3) uint8 with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"an image must be an RGB array (H, W, 3) of uint8; got {image.shape} of {image.dtype}."
        )
