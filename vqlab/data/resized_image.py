"""An image at network size, or at the resolution of its tiles."""

from __future__ import annotations

from dataclasses import dataclass

from vqlab.pixels.decoding import Pixels
from vqlab.pixels.resizing import Geometry, Mask
from vqlab.types import Tile


@dataclass(frozen=True)
class ResizedImage:
    """image (H, W, 3) uint8 and mask (H, W) bool at network size; with tiles, a whole image or one
    of its tiles."""

    image: Pixels
    mask: Mask
    geometry: Geometry
    gain: float | None = None
    """Of tiles, and images to cut into them: `brightness_gain` of the whole image."""
    tile: Tile | None = None
    """Position of a tile."""

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.mask.nbytes
