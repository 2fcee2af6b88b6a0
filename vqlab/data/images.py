"""Files of any common kind become RGB arrays, arrays become the network's square, and back."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from vqlab.data.depth import BadFile as BadFile
from vqlab.data.depth import deep_colours, depth_of, eight_bits
from vqlab.data.settings import DataSettings
from vqlab.types import Geometry, UserError

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Mask = NDArray[np.bool_]
"""(H, W), True on the defect."""

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
BORDER_BRIGHTNESS = 0.5
"""What `brightness: border` makes the border of every image."""


@dataclass(frozen=True)
class Decoded:
    """The whole first frame of a file, upright, in the file's own mode."""

    image: Image.Image
    depth: int
    """Bits of a value in the file, see `depth_of`."""
    lossy: str
    """The lossy format that the content has, whatever the file is called; else empty."""


def read_image(path: Path | str, bits: int | None = None) -> Pixels:
    """The picture as a person sees it: (H, W, 3) uint8 RGB, turned as its EXIF tag says.

    16 bits become 8 by the high byte, or by the highest 8 of `bits` bits (`data.bits`), so by the
    same scale for every file. Transparency becomes white, of several frames the first is taken.
    Raises BadFile (a UserError) that names the file.
    """
    path = Path(path)
    return rgb_of(decode(path, bits), path, bits)


def read_mask(path: Path | str) -> Mask:
    """The defect's pixels, (H, W) bool: every value above 0, so indices count as well as 255.

    Transparency is not looked at; values of a lossy format (JPEG, lossy WebP), whatever the file
    is called, count above 128, as its zeros are not exact. Raises BadFile (a UserError) that names
    the file.
    """
    return mask_of(decode(Path(path)))


def mask_of(decoded: Decoded) -> Mask:
    """The mask that a decoded file holds, see `read_mask`."""
    colours = mask_values(decoded.image)
    return np.asarray((colours > (128 if decoded.lossy else 0)).any(axis=2), np.bool_)


def mask_values(image: Image.Image) -> NDArray[Any]:
    """The values (H, W, C) of a mask's file, without transparency; indices of a palette."""
    values = np.atleast_3d(np.asarray(image))
    return values[..., :-1] if image.mode in ("LA", "PA", "RGBA") else values


def decode(path: Path, bits: int | None = None) -> Decoded:
    """Read an image file to its end. Raises BadFile (a UserError) that names the file.

    bits: where it is given, 16-bit colours are reduced to 8 bits by it.
    """
    try:
        with Image.open(path) as image:
            return upright(image, path, bits)
    except BadFile:
        raise
    except FileNotFoundError:
        raise BadFile(path, "it does not exist", "check the path") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise BadFile(path, "it is empty" if empty else "it is not an image we know") from None
    except OSError as error:
        reason = "it is cut short or damaged" if not isinstance(error, PermissionError) else ""
        raise BadFile(path, reason or "reading it is not permitted") from None
    except Image.DecompressionBombError:
        raise BadFile(path, "it has too many pixels", "cut it into smaller images") from None
    except (SyntaxError, ValueError, EOFError, struct.error, zlib.error):
        raise BadFile(path, "it is cut short or damaged") from None


def upright(image: Image.Image, path: Path, bits: int | None = None) -> Decoded:
    """Return an opened image decoded and turned as its EXIF tag says; `path` is for errors."""
    depth = depth_of(image)
    image.load()
    _refuse_odd_tiff(image, path)
    lossy = _lossy_format(image, path)
    if bits is not None and depth == 16 and not image.mode.startswith("I"):
        return Decoded(deep_colours(path, bits, image), depth, lossy)
    return Decoded(ImageOps.exif_transpose(image), depth, lossy)


def _lossy_format(image: Image.Image, path: Path) -> str:
    """Return the name of the image's format if it changes values when saved, else an empty text."""
    if image.format in ("JPEG", "MPO", "JPEG2000", "AVIF"):
        return "JPEG" if image.format == "MPO" else str(image.format)
    if image.format == "TIFF" and "jpeg" in str(image.info.get("compression")):
        return "TIFF with JPEG compression"
    if image.format == "WEBP" and path.is_file() and _webp_is_lossy(path):
        return "lossy WebP"
    return ""


def _webp_is_lossy(path: Path) -> bool:
    """Whether the first frame of a WebP file is the chunk `VP8 `, and not the lossless `VP8L`."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, size = head[:4], int.from_bytes(head[4:], "little")
            if kind in (b"VP8 ", b"VP8L"):
                return kind == b"VP8 "
            # a frame of an animation holds 16 bytes and then chunks
            file.seek(16 if kind == b"ANMF" else size + size % 2, 1)
    return True


def _refuse_odd_tiff(image: Image.Image, path: Path) -> None:
    """Two kinds of 16-bit TIFF that Pillow reads without complaint, and wrongly."""
    if isinstance(image, TiffImageFile) and max(image.tag_v2.get(258, (8,))) > 8:
        if image.mode == "RGB" and image.tag_v2.get(284) == 2:
            raise BadFile(path, "its 16-bit colours lie in separate planes", "save it as PNG")
        if image.mode.startswith("I") and image.tag_v2.get(262) == 0:
            raise BadFile(path, "its 16-bit grey has white as 0", "save it as PNG")


def rgb_of(decoded: Decoded, path: Path, bits: int | None = None) -> Pixels:
    """(H, W, 3) uint8 RGB of an image of any mode, as `read_image` says; `path` is for errors.

    Raises BadFile (a UserError).
    """
    image = decoded.image
    if image.mode.startswith(("I", "F")):
        scale = bits if decoded.depth else None  # else the file's header says the highest value
        grey = eight_bits(np.asarray(image), path, scale)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    try:
        return np.ascontiguousarray(image.convert("RGB"))
    except ValueError:
        raise BadFile(path, f"its colours ({image.mode}) are not known", "save as RGB") from None


def box_for(size: tuple[int, int], settings: DataSettings) -> Geometry:
    """Where an image of `size` (H, W) will lie in the network's square."""
    side = settings.image_size
    if settings.resize == "stretch":
        return Geometry(size, (0, 0, side, side))
    scale = side / max(size)
    height, width = (max(1, round(length * scale)) for length in size)
    return Geometry(size, ((side - height) // 2, (side - width) // 2, height, width))


def fit_image(image: Pixels, settings: DataSettings) -> tuple[Pixels, Geometry]:
    """(H, W, 3) to (S, S, 3) uint8; the area outside the box is black."""
    geometry = box_for((image.shape[0], image.shape[1]), settings)
    top, left, height, width = geometry.box
    resized = scaled(image, height, width)
    if (height, width) == (settings.image_size, settings.image_size):
        return resized, geometry
    square = np.zeros((settings.image_size, settings.image_size, 3), np.uint8)
    square[top : top + height, left : left + width] = resized
    return square, geometry


def fit_mask(mask: Mask, settings: DataSettings) -> Mask:
    """(H, W) to (S, S): a pixel is marked if it covers any marked pixel, however little of it."""
    geometry = box_for((mask.shape[0], mask.shape[1]), settings)
    top, left, height, width = geometry.box
    sums = np.asarray(cv2.integral(mask.astype(np.uint8)))
    (y0, y1), (x0, x1) = _spans(mask.shape[0], height), _spans(mask.shape[1], width)
    rows = sums[y1] - sums[y0]
    square = np.zeros((settings.image_size, settings.image_size), np.bool_)
    square[top : top + height, left : left + width] = rows[:, x1] - rows[:, x0] > 0
    return square


def _spans(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and one-past-last source pixel that each of `target` pixels covers."""
    steps = np.arange(target + 1, dtype=np.int64) * source
    return steps[:-1] // target, -(-steps[1:] // target)


def scaled(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Area averages where it shrinks, bilinear where it grows, each axis for itself."""
    shrunk = (min(height, image.shape[0]), min(width, image.shape[1]))
    for size, way in ((shrunk, cv2.INTER_AREA), ((height, width), cv2.INTER_LINEAR)):
        if image.shape[:2] != size:
            image = np.asarray(cv2.resize(image, (size[1], size[0]), interpolation=way))
    return image


def to_tensor(square: Pixels, geometry: Geometry, settings: DataSettings) -> Tensor:
    """(S, S, 3) uint8 to (3, S, S) float32 in [0, 1], with the brightness that `settings` ask for.

    `brightness: border` multiplies the image so that the median grey of its border (a frame of
    1/32 of the box) becomes 0.5, and clips at 1: two images of one product under different light
    become alike. Borders darker than 0.05 count as 0.05.
    """
    image = torch.from_numpy(np.ascontiguousarray(square.transpose(2, 0, 1)))
    values = image.to(torch.float32) / 255
    if settings.brightness == "border":
        gain = BORDER_BRIGHTNESS / max(border_brightness(square, geometry), 0.05)
        values = (values * gain).clamp_(max=1)
    return values


def border_brightness(square: Pixels, geometry: Geometry) -> float:
    """Median grey, in [0, 1], of a frame of 1/32 of the box's shorter side (at least 1 pixel)."""
    top, left, height, width = geometry.box
    frame = square[top : top + height, left : left + width][border_frame((height, width))]
    return float(np.median(frame.mean(axis=1))) / 255


def border_frame(size: tuple[int, ...]) -> Mask:
    """The frame of an image of `size` (H, W): 1/32 of the shorter side wide, at least 1 pixel."""
    edge = max(1, min(size) // 32)
    frame = np.ones(size, np.bool_)
    frame[edge:-edge, edge:-edge] = False
    return frame


def to_network(image: Pixels, settings: DataSettings) -> tuple[Tensor, Geometry]:
    """An RGB image (H, W, 3) uint8 as the network sees it, (3, S, S) float32, and how it got there.

    The same path that every image of a data set takes.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise UserError(
            f"an image must be an RGB array (H, W, 3) of uint8; got {image.shape} of {image.dtype}."
        )
    square, geometry = fit_image(image, settings)
    return to_tensor(square, geometry, settings), geometry


def to_original(square: NDArray[Any], geometry: Geometry) -> NDArray[np.float32]:
    """A map (S, S) or picture (S, S, C) in the image's own size, (H, W[, C]) float32, bilinear.

    The padding of a letterbox is cut away.
    """
    top, left, height, width = geometry.box
    inside = np.ascontiguousarray(square[top : top + height, left : left + width], np.float32)
    return resized(inside, geometry.original)


def resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map (h, w[, C]) float32 at another size (H, W), bilinear."""
    large = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)
