"""An image at network size, or at the resolution of its tiles."""

from __future__ import annotations

from dataclasses import dataclass

from vqlab.data.settings import DataSettings
from vqlab.pixels.decoding import Pixels
from vqlab.pixels.resizing import Geometry, Mask, box_for
from vqlab.types import Tile


@dataclass(frozen=True)
class ResizedImage:
    """image (S, S, 3) uint8 and mask (S, S) bool at network size; with tiles, a whole image (h, w)
    or one of its tiles."""

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

    @property
    def box(self) -> tuple[slice, slice]:
        """Index of the area without padding."""
        return index_of_box(self.geometry)

    def box_at(self, settings: DataSettings) -> tuple[slice, slice]:
        """Return the same index at the network size of `settings`."""
        return index_of_box(box_for(self.geometry.original, settings))


def index_of_box(geometry: Geometry) -> tuple[slice, slice]:
    top, left, height, width = geometry.box
    return slice(top, top + height), slice(left, left + width)
