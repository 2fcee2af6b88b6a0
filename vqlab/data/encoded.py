"""Read encoded images in memory from untrusted senders: check format and size, then decode."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from vqlab.errors import UserError
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.decoding import Pixels, load_upright, rgb_of

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
"""Formats of Pillow that are accepted; others, such as EPS, start other programs or are rare."""
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}
_NO_FILE = Path()


class BadImage(UserError):
    """An encoded image cannot be used; `too_large`: because of its number of pixels."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


def accept_pixels(count: int) -> None:
    """Let Pillow open images of up to `count` pixels in this process."""
    Image.MAX_IMAGE_PIXELS = max(count, Image.MAX_IMAGE_PIXELS or 0)


def size_of(content: bytes, max_pixels: int) -> tuple[int, int]:
    """Return width and height from the header of an image, without decoding it.

    Raises BadImage for an unsupported format or more than `max_pixels` pixels.
    """
    if not content:
        raise BadImage("the image must not be empty; got 0 bytes.")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise BadImage(
            "the image must be a PNG, JPEG, BMP, TIFF, WebP, PPM or PGM file; got another format "
            "or a damaged file."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(_too_many("more", max_pixels), too_large=True) from None
    except Exception:  # Pillow raises many kinds of errors for damaged headers
        raise _damaged() from None
    if width * height > max_pixels:
        raise BadImage(_too_many(f"{width} × {height}", max_pixels), too_large=True)
    if width < 1 or height < 1:
        raise _damaged()
    return width, height


def read_encoded(content: bytes, max_pixels: int, bits: int | None = None) -> Pixels:
    """Decode an image to (H, W, 3) uint8 as `read_image` decodes its file. Raises BadImage."""
    size_of(content, max_pixels)
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return rgb_of(load_upright(image, _NO_FILE, bits, content), _NO_FILE, bits)
    except BadFile as error:
        raise BadImage(f"the image cannot be used: {error.reason}.") from None
    except Exception:  # as above
        raise _damaged() from None


def suffix_of(content: bytes) -> str:
    """Return the file extension of an image's format, e.g. `.png`. Raises BadImage."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            kind = str(image.format)
    except Exception:  # as above
        raise _damaged() from None
    return _SUFFIXES.get(kind, f".{kind.lower()}")


def _too_many(got: str, max_pixels: int) -> str:
    return (
        f"the image must have at most {max_pixels:,} pixels; got {got}; split it, or reduce its "
        "size."
    )


def _damaged() -> BadImage:
    return BadImage("the image is truncated or damaged; send it again.")
