"""Preprocessing of an exported model: image file to network input, and anomaly map to image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.errors import UserError
from vqlab.pixels.area import InspectedArea, lowest_outside
from vqlab.pixels.aspect import unusual_shape
from vqlab.pixels.bit_depth import BadFile
from vqlab.pixels.decoding import Pixels, read_image, require_rgb
from vqlab.pixels.resizing import Geometry, network_input, to_original, too_small

Array = NDArray[Any]


@dataclass(frozen=True)
class Preprocessing:
    """How images become network input; see the settings of the same names in `data`."""

    image_size: int
    resize: str
    brightness: str
    bits: int | None
    input_shape: tuple[int, int] | None = None
    """Shape (H, W) of all network inputs; None in older exported models: any."""
    area: InspectedArea | None = None
    """Inspected area; None: all pixels."""
    aspect_ratios: tuple[float, float] | None = None
    """Lowest and highest width / height of the training images; None in older exported models."""
    tile_size: None = None

    @classmethod
    def parse(cls, described: Mapping[str, Any]) -> Preprocessing:
        """Return what the section `preprocessing` of a model's description says."""
        shape, area = described.get("input_shape"), described.get("inspected")
        ratios = described.get("aspect_ratios")
        return cls(
            **{name: described[name] for name in ("image_size", "resize", "brightness", "bits")},
            input_shape=tuple(shape) if shape else None,
            area=InspectedArea.decode(area) if area else None,
            aspect_ratios=tuple(ratios) if ratios else None,
        )

    def network_input(self, image: str | Path | Pixels) -> tuple[Array, Geometry]:
        """Return the network input (3, S, S') float32 of an image file, or of RGB pixels (H, W, 3)
        uint8, and its geometry.

        Raises UserError for a file that cannot be read, for an image that is `too_small`, and for
        one of another aspect ratio than the model's, if it matters.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image, self.bits)
        require_rgb(pixels)
        small = too_small((pixels.shape[0], pixels.shape[1]), self)
        if small and isinstance(image, str | Path):
            raise BadFile(Path(image), small)
        if small:
            raise UserError(f"the image is too small: {small}.")
        values, geometry = network_input(pixels, self, self.area)
        height, width = values.shape[1:]
        expected = self.input_shape or (height, width)
        if expected != (height, width):
            raise UserError(
                f"images must become {expected[1]}x{expected[0]} pixels at network size, as those "
                f"that the model was exported for; one of {pixels.shape[1]}x{pixels.shape[0]} "
                f"becomes {width}x{height}; use images of the same product."
            )
        return values, geometry

    def note(self, size: tuple[int, int]) -> str:
        """Return why the score of an image of `size` (H, W) may mean little, see `unusual_shape`;
        empty if no reason is known."""
        return unusual_shape(size, self.aspect_ratios)

    def to_original(self, anomaly_map: Array, geometry: Geometry) -> Array:
        """Resize a map (S, S') to the image's size (H, W), with the lowest inspected value where
        the image is not inspected."""
        full = to_original(anomaly_map, geometry)
        return lowest_outside(full, self.area.at(geometry.original)) if self.area else full
