"""Properties of image and mask files, measured while decoding and used by `data.checks`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqlab.data.images import mask_files, mask_of, mask_values, union_of
from vqlab.pixels.decoding import Pixels, decode, rgb_of
from vqlab.pixels.resizing import Mask, border_frame

SOFT_LEVELS = 16
"""More grey levels than this in a mask are a sign of compression or resizing."""
FLAT = 2
"""Largest range of grey levels in an image of a single colour."""
KEY_SIDE = 128
"""Rows and columns sampled for the key of an image."""


@dataclass(frozen=True)
class ImageProperties:
    """Properties of an image file."""

    size: tuple[int, int]
    """(H, W)."""
    grey: bool
    """All channels are equal, whatever the mode of the file."""
    kind: str
    """`grey`, `1-bit` or `RGB`, by the mode of the file."""
    depth: int
    """Bits per value in the file; 0 for floating point or a maximum stated in the header."""
    highest: int
    """Highest value of a file with more than 8 bits (of 16-bit colours: of the high byte)."""
    flat: str
    """`transparent` or `colour` if the image shows a single colour, else empty."""
    key: str
    """Hash of a subsample: equal for equal images, rarely equal for others."""


@dataclass(frozen=True)
class MaskProperties:
    """Properties of a mask file."""

    share: float
    """Share of the image that is marked."""
    border: float
    """Share of the border that is marked."""
    lossy: str
    """Name of the file format if it is lossy, else empty."""
    soft: bool
    """Has many grey levels, and far more pixels above 0 than bright ones."""
    lowest: int
    """Lowest value."""
    bright_zero: bool
    """Has a palette in which index 0 is brighter than index 1."""
    alpha: bool
    """Alpha varies and the colours do not: the mask may be stored in the alpha channel."""

    @property
    def large(self) -> bool:
        """Most of the image or of its border is marked."""
        return self.share > 0.5 or self.border > 0.5


def inspect_image(path: Path, bits: int | None) -> tuple[Pixels, ImageProperties]:
    """Return an image as `read_image` does, and its properties. Raises BadFile."""
    decoded = decode(path, bits)
    pixels = rgb_of(decoded, path, bits)
    mode = decoded.image.mode
    highest = 0
    if decoded.depth > 8:
        grey16 = mode.startswith("I")
        highest = int(np.asarray(decoded.image).max()) if grey16 else int(pixels.max()) << 8 | 255
    rows, columns = (max(1, side // KEY_SIDE) for side in pixels.shape[:2])
    subsample = np.ascontiguousarray(pixels[::rows, ::columns])
    flat = ""
    if _is_flat(subsample) and _is_flat(pixels):
        clear = decoded.image.has_transparency_data
        alpha = decoded.image.convert("RGBA").getchannel("A").getextrema() if clear else None
        flat = "transparent" if alpha == (0, 0) else "colour"
    kind = "grey" if mode in ("L", "LA", "La") or mode.startswith(("I", "F")) else "RGB"
    return pixels, ImageProperties(
        size=(pixels.shape[0], pixels.shape[1]),
        grey=bool((subsample == subsample[..., :1]).all()),
        kind="1-bit" if mode == "1" else kind,
        depth=decoded.depth,
        highest=highest,
        flat=flat,
        key=hashlib.sha256(repr(pixels.shape).encode() + subsample.tobytes()).hexdigest(),
    )


def _is_flat(pixels: Pixels) -> bool:
    return bool((np.ptp(pixels.reshape(-1, 3), axis=0) <= FLAT).all())


def inspect_mask(path: Path) -> tuple[Mask, MaskProperties]:
    """Return a mask as `read_mask` does, and its properties. Raises BadFile.

    Of a folder of masks, the share is that of the union; other properties are the worst ones.
    """
    parts = {file: _inspect_mask_file(file) for file in mask_files(path)}
    properties = [each for _, each in parts.values()]
    if len(parts) == 1:
        return next(iter(parts.values()))
    mask = union_of({file: mask for file, (mask, _) in parts.items()})
    return mask, MaskProperties(
        share=float(mask.mean()) if all(each.share for each in properties) else 0.0,
        border=float(mask[border_frame(mask.shape)].mean()),
        lossy=next((each.lossy for each in properties if each.lossy), ""),
        soft=any(each.soft for each in properties),
        lowest=max(each.lowest for each in properties),
        bright_zero=any(each.bright_zero for each in properties),
        alpha=any(each.alpha for each in properties),
    )


def _inspect_mask_file(path: Path) -> tuple[Mask, MaskProperties]:
    decoded = decode(path)
    mask, values = mask_of(decoded), mask_values(decoded.image)
    brightest = values.max(axis=2)
    bright = int((brightest > brightest.max() / 2).sum())
    many_levels = len(np.unique(values)) > SOFT_LEVELS
    has_alpha = decoded.image.mode in ("LA", "PA", "RGBA")
    constant = has_alpha and bool((values == values[:1, :1]).all())
    palette = (decoded.image.mode == "P" and decoded.image.getpalette()) or []
    return mask, MaskProperties(
        share=float(mask.mean()),
        border=float(mask[border_frame(mask.shape)].mean()),
        lossy=decoded.lossy,
        soft=not decoded.lossy and int(mask.sum()) > 2 * bright and many_levels,
        lowest=int(brightest.min()),
        bright_zero=len(palette) >= 6 and sum(palette[:3]) > sum(palette[3:6]),
        alpha=constant and bool(np.ptp(np.asarray(decoded.image)[..., -1]) > 0),
    )
