"""Read image files as RGB arrays, resize them to network size, and resize maps back."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from vqlab.data.bit_depth import BadFile as BadFile
from vqlab.data.bit_depth import depth_of, reduce_colours, reduce_to_8_bits
from vqlab.data.settings import DataSettings
from vqlab.types import Geometry, UserError

if TYPE_CHECKING:
    from vqlab.data.area import InspectedArea

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Mask = NDArray[np.bool_]
"""(H, W), True on the defect."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""Raised by Pillow for damaged files."""
BORDER_BRIGHTNESS = 0.5
"""Border brightness of every image after `brightness: border`."""


@dataclass(frozen=True)
class Decoded:
    """First frame of a file, upright, in the mode of the file."""

    image: Image.Image
    depth: int
    """Bits per value in the file, see `depth_of`."""
    lossy: str
    """Name of the lossy format of the content, whatever the file name; empty if lossless."""


def read_image(path: Path | str, bits: int | None = None) -> Pixels:
    """Read an image as (H, W, 3) uint8 RGB, with its EXIF orientation applied.

    16-bit values are reduced to their high byte, or to the highest 8 of `bits` bits (`data.bits`):
    the same scale for every file. Transparency becomes white; only the first frame is read.
    Raises BadFile (a UserError) that names the file.
    """
    path = Path(path)
    return rgb_of(decode(path, bits), path, bits)


def pixels_digest(pixels: Pixels) -> str:
    """Return the SHA-256 (hex) of an image's shape and pixels: equal for copies of an image,
    whatever their name and lossless format."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def read_mask(path: Path | str) -> Mask:
    """Read a mask as (H, W) bool: True where a value is above 0 (class indices as well as 255).

    path: a file, or a folder of masks, whose union is returned. Alpha is ignored. In a lossy format
    (JPEG, lossy WebP; by content, not by name) the threshold is 128, because its zeros are not
    exact. Raises BadFile (a UserError) that names the file.
    """
    return union_of({file: mask_of(decode(file)) for file in mask_files(Path(path))})


def mask_files(path: Path) -> list[Path]:
    """Return the files of a mask: itself, or the image files in a folder of masks."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def union_of(masks: Mapping[Path, Mask]) -> Mask:
    """Return the union of masks (H, W), at least one. Raises BadFile for different sizes."""
    (first, union), *others = masks.items()
    for path, mask in others:
        if mask.shape != union.shape:
            sizes = [f"{each.shape[1]}x{each.shape[0]}" for each in (mask, union)]
            reason = f"the mask is {sizes[0]} pixels and {first.name} {sizes[1]}"
            raise BadFile(path, reason, "masks of an image must have its size")
        union = union | mask
    return union


def mask_of(decoded: Decoded) -> Mask:
    """Return the mask of a decoded file, see `read_mask`."""
    colours = mask_values(decoded.image)
    return np.asarray((colours > (128 if decoded.lossy else 0)).any(axis=2), np.bool_)


def mask_values(image: Image.Image) -> NDArray[Any]:
    """Return the values (H, W, C) of a mask file without alpha; of a palette, the indices."""
    values = np.atleast_3d(np.asarray(image))
    return values[..., :-1] if image.mode in ("LA", "PA", "RGBA") else values


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


def box_for(size: tuple[int, int], settings: DataSettings) -> Geometry:
    """Return the position of an image of `size` (H, W) in the network input."""
    side, tile = settings.image_size, settings.tiles.size
    if tile is not None:
        height, width = (max(1, round(length * side / tile)) for length in size)
        return Geometry(size, (0, 0, height, width))
    if settings.resize == "stretch":
        return Geometry(size, (0, 0, side, side))
    scale = side / max(size)
    height, width = (max(1, round(length * scale)) for length in size)
    return Geometry(size, ((side - height) // 2, (side - width) // 2, height, width))


def frame_of(geometry: Geometry, settings: DataSettings) -> tuple[int, int]:
    """Return the size of an image with its padding: that of the network, or with tiles its own."""
    tiled = settings.tiles.size is not None
    return geometry.box[2:] if tiled else (settings.image_size, settings.image_size)


def fit_image(image: Pixels, settings: DataSettings) -> tuple[Pixels, Geometry]:
    """Resize (H, W, 3) to (S, S, 3) uint8, or with tiles to (h, w, 3); padding is black."""
    geometry = box_for((image.shape[0], image.shape[1]), settings)
    top, left, height, width = geometry.box
    square = np.zeros((*frame_of(geometry, settings), 3), np.uint8)
    square[top : top + height, left : left + width] = resize_image(image, height, width)
    return square, geometry


def fit_mask(mask: Mask, settings: DataSettings) -> Mask:
    """Resize (H, W) to (S, S), or with tiles to (h, w): a pixel is True if it overlaps any True
    pixel."""
    geometry = box_for((mask.shape[0], mask.shape[1]), settings)
    top, left, height, width = geometry.box
    square = np.zeros(frame_of(geometry, settings), np.bool_)
    square[top : top + height, left : left + width] = resize_mask(mask, (height, width))
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


def to_tensor(
    square: Pixels, geometry: Geometry, settings: DataSettings, inspected: Mask | None = None
) -> Tensor:
    """Convert (S, S, 3) uint8 to (3, S, S) float32 in [0, 1] and correct its brightness.

    `brightness: border` scales the image so that the median grey of its border (a frame of 1/32 of
    the box) becomes 0.5, and clips at 1; this compensates for different illumination. Borders
    darker than 0.05 are treated as 0.05. inspected (S, S): see `border_brightness`.
    """
    return with_gain(square, brightness_gain(square, geometry, settings, inspected))


def brightness_gain(
    square: Pixels, geometry: Geometry, settings: DataSettings, inspected: Mask | None = None
) -> float | None:
    """Return the factor by which `to_tensor` corrects the brightness; None: no correction."""
    if settings.brightness == "keep":
        return None
    return BORDER_BRIGHTNESS / max(border_brightness(square, geometry, inspected), 0.05)


def with_gain(square: Pixels, gain: float | None) -> Tensor:
    """Convert (S, S, 3) uint8 to (3, S, S) float32 in [0, 1], times `gain`, clipped at 1."""
    image = torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))
    values = image.to(torch.float32) / 255
    return values if gain is None else (values * gain).clamp_(max=1)


def border_brightness(square: Pixels, geometry: Geometry, inspected: Mask | None = None) -> float:
    """Return the median grey, in [0, 1], of the box's `border_frame`.

    inspected (S, S): only these pixels count; all of them if the border has none.
    """
    top, left, height, width = geometry.box
    box = np.s_[top : top + height, left : left + width]
    frame = border_frame((height, width))
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


def to_network(
    image: Pixels, settings: DataSettings, area: InspectedArea | None = None
) -> tuple[Tensor, Geometry]:
    """Convert an RGB image (H, W, 3) uint8 to network input (3, S, S) float32, as `ImageSet` does.

    area: inspected area; None: all pixels. Raises UserError for another shape or dtype, and for an
    aspect ratio that differs from the area's.
    """
    require_rgb(image)
    square, geometry = fit_image(image if area is None else area.fill(image), settings)
    inspected = None if area is None else area.fitted(geometry.original, settings)
    return to_tensor(square, geometry, settings, inspected), geometry


def require_rgb(image: Pixels) -> None:
    """Raise UserError unless an image is (H, W, 3) uint8 with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"an image must be an RGB array (H, W, 3) of uint8; got {image.shape} of {image.dtype}."
        )


def to_original(square: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """Resize (S, S[, C]) to the original size (H, W[, C]) float32, bilinear, without padding."""
    top, left, height, width = geometry.box
    inside = np.ascontiguousarray(square[top : top + height, left : left + width], np.float32)
    return resize_map(inside, geometry.original)


def resize_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize (h, w[, C]) float32 to `size` (H, W), bilinear."""
    large = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)
