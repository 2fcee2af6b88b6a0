"""The inspected area of an image: its region of interest without ignored pixels."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqlab.errors import UserError
from vqlab.pixels.decoding import UNDECODABLE, Pixels
from vqlab.pixels.resizing import Mask, Resizing, fit_mask

FILL = 128
"""Grey level of pixels that are not inspected, in the network input."""
_SIZES = 8
"""Number of image sizes for which masks are kept."""


@dataclass(frozen=True, eq=False)
class InspectedArea:
    """Pixels to inspect, at the size of its file; images of its aspect ratio may have any size.

    Other pixels are filled with a constant before an image is resized, so that they have no
    influence on features, scores, thresholds and metrics.
    """

    mask: Mask
    """(H, W), True where images are inspected; not all True, not all False."""
    _resized: dict[tuple[int, int], Mask] = field(default_factory=dict, init=False, repr=False)
    _fitted: dict[tuple[object, ...], Mask] = field(default_factory=dict, init=False, repr=False)

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether images of `size` (H, W) have its aspect ratio, up to a pixel."""
        smaller, larger = sorted((size, self.mask.shape), key=max)
        scale = max(smaller) / max(larger)
        return all(abs(a * scale - b) <= 1 for a, b in zip(larger, smaller, strict=True))

    def at(self, size: tuple[int, int]) -> Mask:
        """Return the mask at the size (H, W) of an image. Raises UserError if it does not fit."""
        if size == self.mask.shape:
            return self.mask
        if not self.fits(size):
            raise UserError(f"{self.mismatch(size)}; use images of that aspect ratio.")
        resized = self._resized.get(size)
        if resized is None:
            small = self.mask.astype(np.uint8)
            values = cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST)
            resized = np.asarray(values, np.bool_)
            if not resized.any():
                raise UserError(
                    f"images must be large enough for the inspected area (data.roi, data.ignore), "
                    f"which vanishes at {size[1]}x{size[0]} pixels."
                )
            if len(self._resized) >= _SIZES:
                self._resized.clear()
            self._resized[size] = resized
        return resized

    def fitted(self, size: tuple[int, int], settings: Resizing) -> Mask:
        """Return the mask of an image of `size` (H, W) at network size, (S, S), or with tiles
        (h, w): pixels that overlap the inspected area, without padding."""
        key = (size, settings.image_size, settings.resize, settings.tile_size)
        fitted = self._fitted.get(key)
        if fitted is None:
            fitted = fit_mask(self.at(size), settings)
            if len(self._fitted) >= _SIZES:
                self._fitted.clear()
            self._fitted[key] = fitted
        return fitted

    def mismatch(self, size: tuple[int, int]) -> str:
        """Return a message that an image of `size` (H, W) has another aspect ratio."""
        height, width = self.mask.shape
        return (
            f"it is {size[1]}x{size[0]} pixels; the inspected area (data.roi, data.ignore) is "
            f"{width}x{height}, which is another aspect ratio"
        )

    def fill(self, image: Pixels) -> Pixels:
        """Return an image (H, W, 3) with all other pixels set to `FILL`."""
        filled: Pixels = image.copy()
        filled[~self.at((image.shape[0], image.shape[1]))] = FILL
        return filled

    @property
    def digest(self) -> str:
        """sha256 (hex) of size and pixels."""
        sha = hashlib.sha256(repr(self.mask.shape).encode())
        sha.update(np.packbits(self.mask).tobytes())
        return sha.hexdigest()

    def encode(self) -> str:
        """Return the mask as a 1-bit PNG in base64, for checkpoints and exported models."""
        buffer = io.BytesIO()
        Image.fromarray(self.mask.astype(np.uint8) * 255).convert("1").save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()

    @classmethod
    def decode(cls, text: str) -> InspectedArea:
        """Restore an area from `encode`. Raises UserError for other text."""
        try:
            with Image.open(io.BytesIO(base64.b64decode(text)), formats=["PNG"]) as image:
                mask = np.asarray(image, np.bool_)
        except (*UNDECODABLE, TypeError, Image.DecompressionBombError) as error:
            raise UserError(f"the inspected area is damaged ({error}); train again.") from None
        if mask.ndim != 2 or not mask.any():
            raise UserError("the inspected area must be a mask with pixels to inspect.")
        return cls(mask)


def lowest_outside(map: NDArray[Any], inspected: Mask) -> NDArray[Any]:
    """Return the map (h, w) with the lowest inspected value on pixels that are not inspected."""
    return np.where(inspected, map, map[inspected].min())
