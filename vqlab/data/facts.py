"""What decoding shows of an image file or a mask, for the warnings on a data set's meaning."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqlab.data.images import (
    Mask,
    Pixels,
    border_frame,
    decode,
    mask_of,
    mask_values,
    rgb_of,
)

SOFT_LEVELS = 16
"""More grey levels than this in a mask come of compression or resizing."""
FLAT = 2
"""Difference of grey levels up to which an image shows a single colour."""
SAMPLED = 128
"""Rows and columns that the key of an image is made of."""


@dataclass(frozen=True)
class PictureFacts:
    """What is worth knowing of an image file."""

    size: tuple[int, int]
    """(H, W)."""
    grey: bool
    """Its colours are equal, whatever the mode of the file."""
    kind: str
    """`grey`, `1-bit` or `RGB`, by the mode of the file."""
    depth: int
    """Bits of a value in the file; 0: floating point, or the header says the highest value."""
    highest: int
    """Highest value of a file with more than 8 bits; of 16-bit colours to the high byte."""
    flat: str
    """`transparent` or `colour` where it shows a single colour, else empty."""
    key: str
    """Equal for equal pictures, and hardly ever for others."""


@dataclass(frozen=True)
class MaskFacts:
    """What is worth knowing of a mask."""

    share: float
    """Share of the image that is marked."""
    border: float
    """Share of the border that is marked."""
    lossy: str
    """Its format where that is lossy, else empty."""
    soft: bool
    """Many grey levels, with more pixels above 0 than bright ones by far."""
    least: int
    """Lowest value."""
    palette: bool
    """It has a palette whose index 0 is not the darkest colour."""
    alpha: bool
    """Its transparency varies and its colours do not: the mask may be there."""


def examine(path: Path, bits: int | None) -> tuple[Pixels, PictureFacts]:
    """Return an image as `read_image` does, and what it shows. Raises BadFile."""
    decoded = decode(path, bits)
    pixels = rgb_of(decoded, path, bits)
    highest = 0
    if decoded.depth > 8:
        deep = decoded.image.mode.startswith("I")
        highest = int(np.asarray(decoded.image).max()) if deep else int(pixels.max()) << 8 | 255
    step = (max(1, pixels.shape[0] // SAMPLED), max(1, pixels.shape[1] // SAMPLED))
    some = np.ascontiguousarray(pixels[:: step[0], :: step[1]])
    flat = ""
    if _flat(some) and _flat(pixels):
        clear = decoded.image.has_transparency_data
        alpha = decoded.image.convert("RGBA").getchannel("A").getextrema() if clear else None
        flat = "transparent" if alpha == (0, 0) else "colour"
    return pixels, PictureFacts(
        size=(pixels.shape[0], pixels.shape[1]),
        grey=bool((some == some[..., :1]).all()),
        kind=_kind(decoded.image.mode),
        depth=decoded.depth,
        highest=highest,
        flat=flat,
        key=hashlib.sha256(repr(pixels.shape).encode() + some.tobytes()).hexdigest(),
    )


def _kind(mode: str) -> str:
    if mode == "1":
        return "1-bit"
    return "grey" if mode in ("L", "LA", "La") or mode.startswith(("I", "F")) else "RGB"


def _flat(pixels: Pixels) -> bool:
    return all(int(np.ptp(pixels[..., channel])) <= FLAT for channel in range(3))


def examine_mask(path: Path) -> tuple[Mask, MaskFacts]:
    """Return a mask as `read_mask` does, and what it shows. Raises BadFile."""
    decoded = decode(path)
    mask = mask_of(decoded)
    values = mask_values(decoded.image)
    strongest = values.max(axis=2)
    highest, marked = strongest.max(), int(mask.sum())
    bright = int((strongest > highest / 2).sum())
    soft = not decoded.lossy and marked > 2 * bright and len(np.unique(values)) > SOFT_LEVELS
    return mask, MaskFacts(
        share=float(mask.mean()),
        border=float(mask[border_frame(mask.shape)].mean()),
        lossy=decoded.lossy,
        soft=soft,
        least=int(strongest.min()),
        palette=_bright_zero(decoded.image.getpalette()) if decoded.image.mode == "P" else False,
        alpha=bool(
            decoded.image.mode in ("LA", "PA", "RGBA")
            and all(np.ptp(values[..., channel]) == 0 for channel in range(values.shape[2]))
            and np.ptp(np.asarray(decoded.image)[..., -1]) > 0
        ),
    )


def _bright_zero(palette: list[int] | None) -> bool:
    """Whether the first colour of a palette is brighter than the second."""
    return palette is not None and len(palette) >= 6 and sum(palette[:3]) > sum(palette[3:6])
