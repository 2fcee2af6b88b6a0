"""Convert images in memory (PIL, NumPy) to RGB arrays; explain how to convert others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vqlab.errors import UserError
from vqlab.pixels.bit_depth import BadFile, depth_of
from vqlab.pixels.decoding import UNDECODABLE, Pixels, load_upright, rgb_of

_CHANNELS = (1, 3, 4)


def as_rgb(image: Any, bits: int | None = None) -> Pixels:
    """Convert a PIL image, or a uint8 array (H, W, 3) or (H, W), to an array (H, W, 3) uint8.

    A PIL image is converted as `read_image` converts its file. bits: see `data.bits`. Raises
    UserError for anything else, with an expression that converts it if there is one.
    """
    if isinstance(image, Image.Image):
        return _of_pil(image, bits)
    array, source = _as_array(image)
    valid_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if source != "x" or not valid_shape or array.dtype != np.uint8 or 0 in array.shape:
        kind = f"{type(image).__name__} of {array.dtype}, shape {array.shape}"
        raise UserError(
            "an image must be a path, a PIL image, or a uint8 array of shape (height, width, 3) or "
            f"(height, width); got {kind}{_range(array)}; {_advice(array, source, bits)}"
        )
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array


def _of_pil(image: Image.Image, bits: int | None) -> Pixels:
    if 0 in image.size:
        raise UserError(f"an image must have pixels; got a PIL image of size {image.size}.")
    file = str(getattr(image, "filename", ""))
    path = Path(file or "in memory")
    try:
        if bits is not None and path.is_file() and not getattr(image, "tile", None):
            _reject_lost_bits(image, path)
        return rgb_of(load_upright(image, path, bits), path, bits)
    except BadFile:
        raise
    except (*UNDECODABLE, AssertionError):  # the latter for a closed image
        raise UserError(
            f"a PIL image must be open and undamaged; {path} cannot be decoded; pass its path, or "
            "score it before closing it."
        ) from None


def _reject_lost_bits(image: Image.Image, path: Path) -> None:
    """Raise UserError for 16-bit colours, of which Pillow keeps 8 bits when it loads a file."""
    if image.mode.startswith(("I", "F")):
        return
    with Image.open(path) as file:
        if depth_of(file) == 16:
            raise UserError(
                "a PIL image of 16-bit colours has lost the bits that data.bits refers to; pass "
                f"the path {path} instead."
            )


def _as_array(image: Any) -> tuple[NDArray[Any], str]:
    """Return the values as an array, and the expression that converts the image `x` to it."""
    if isinstance(image, np.ndarray):
        return image, "x"
    if isinstance(image, torch.Tensor):
        if image.dtype == torch.bfloat16:  # NumPy has no such type
            return image.detach().cpu().float().numpy(), "x.detach().cpu().float().numpy()"
        return image.detach().cpu().numpy(), "x.detach().cpu().numpy()"
    try:
        return np.asarray(image), "numpy.asarray(x)"
    except (TypeError, ValueError):  # e.g. rows of different lengths
        return np.empty((), object), ""


def _range(array: NDArray[Any]) -> str:
    if array.size == 0 or array.dtype.kind not in "iuf":
        return ""
    return f", values {array.min():.4g} to {array.max():.4g}"


def _advice(array: NDArray[Any], source: str, bits: int | None) -> str:
    """Return how to convert the array, given by the expression `source`, to a valid image."""
    if array.ndim < 2 or array.dtype.kind not in "biuf":
        return "pass its path, or open it with PIL.Image.open."
    if array.size == 0:
        return "it has no pixels."
    if array.ndim == 4 and len(array) > 1:
        return f"pass its {len(array)} images one at a time: x[0], x[1], ..."
    steps = _to_channels_last(array)
    if steps is None:
        return "pass one image of 1, 3 or 4 channels."
    conversion = _to_uint8(array, bits)
    if conversion is None:
        return (
            "scale its values to 0..255 as in the image files, e.g. undo a normalization by mean "
            "and standard deviation."
        )
    expression = conversion.format(source + steps)
    if steps.endswith(_ALPHA):
        expression = f"PIL.Image.fromarray({expression.replace(_ALPHA, '')})"
    return f"pass `{expression}`."


_ALPHA = "[:, :, :4]"
"""Suffix for four channels, converted by PIL because the fourth is alpha."""


def _to_channels_last(array: NDArray[Any]) -> str | None:
    """Return the indexing that reorders the axes to (H, W) or (H, W, C); None if impossible."""
    steps, shape = "", array.shape
    if len(shape) == 4:
        steps, shape = "[0]", shape[1:]
    if len(shape) == 2:
        return steps
    if len(shape) != 3:
        return None
    if shape[2] not in _CHANNELS:
        if shape[0] not in _CHANNELS:
            return None
        steps += ".transpose(1, 2, 0)"
        shape = (*shape[1:], shape[0])
    return steps + {1: "[:, :, 0]", 3: "", 4: _ALPHA}[shape[2]]


def _to_uint8(array: NDArray[Any], bits: int | None) -> str | None:
    """Return the expression that converts the array `{}` to uint8; None if ambiguous."""
    if array.dtype == np.uint8:
        return "{}"
    if array.dtype == np.bool_:
        return "({} * 255).astype('uint8')"
    low, high = float(array.min()), float(array.max())
    if bits is not None and array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        fits = low >= 0 and high < 2**bits
        return f"({{}} >> {bits - 8}).astype('uint8')" if fits else None
    if not (low >= 0 and high <= 65535):  # NaN as well
        return None
    if np.issubdtype(array.dtype, np.floating):
        if high <= 1:
            return "({} * 255).round().astype('uint8')"
        return "{}.round().astype('uint8')" if high <= 255 else None
    # 16 bits are reduced to the high byte, as in a file, however dark the image is. Wider integers
    # within 0..255 are 8-bit values that a computation has promoted.
    if high <= 255 and array.dtype != np.uint16:
        return "{}.astype('uint8')"
    return "({} >> 8).astype('uint8')"
