"""Masks, and images as network input."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vqlab.data.settings import DataSettings
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.decoding import Decoded, Pixels, decode
from vqlab.pixels.resizing import Geometry, Mask, brightness_gain, network_input, to_float

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)


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


def to_tensor(
    square: Pixels, geometry: Geometry, settings: DataSettings, inspected: Mask | None = None
) -> Tensor:
    """Convert (S, S, 3) uint8 to (3, S, S) float32 in [0, 1], see `brightness_gain`."""
    return with_gain(square, brightness_gain(square, geometry, settings, inspected))


def with_gain(square: Pixels, gain: float | None) -> Tensor:
    """Return `to_float` as a tensor."""
    return torch.from_numpy(to_float(square, gain))


def to_network(
    image: Pixels, settings: DataSettings, area: InspectedArea | None = None
) -> tuple[Tensor, Geometry]:
    """Return `network_input` as a tensor: the same values as `ImageSet` gives."""
    values, geometry = network_input(image, settings, area)
    return torch.from_numpy(values), geometry
