"""Brightness and sharpness of images, to describe how those of a camera change."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from vqlab.data.image_set import ImageSet
from vqlab.data.settings import DataSettings
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.decoding import Pixels
from vqlab.pixels.resizing import Geometry, Mask, fit_image

NORMAL_IMAGES = "normal_images"
"""Key, in the metadata of a checkpoint, of the appearance of held-out normal images."""


class Appearance(NamedTuple):
    """Appearance of an image at network size, before `data.brightness` is applied."""

    brightness: float
    """Mean grey of the inspected pixels, in [0, 1]."""
    sharpness: float
    """Variance of the Laplacian divided by the variance of the grey values, both over the inspected
    pixels: independent of gain and offset. 0 for a uniform image."""


def appearance_of(image: Pixels, settings: DataSettings, area: InspectedArea | None) -> Appearance:
    """Return the appearance of an image (H, W, 3). Raises UserError for an aspect ratio that does
    not fit the inspected area."""
    square, geometry = fit_image(image if area is None else area.fill(image), settings)
    inspected = None if area is None else area.fitted(geometry.original, settings)
    return _appearance(square, geometry, inspected)


def appearances(images: ImageSet) -> list[Appearance]:
    """Return the appearance of each image of a set."""
    parts = ((images.resized(index), images.inspected(index)) for index in range(len(images)))
    return [_appearance(resized.image, resized.geometry, mask) for resized, mask in parts]


def _appearance(square: Pixels, geometry: Geometry, inspected: Mask | None) -> Appearance:
    box = geometry.window
    grey = square[box].mean(axis=2, dtype=np.float32) / 255
    edges = np.asarray(cv2.Laplacian(grey, cv2.CV_32F))
    if inspected is not None:
        grey, edges = grey[inspected[box]], edges[inspected[box]]
    contrast = float(grey.var())
    return Appearance(float(grey.mean()), float(edges.var()) / contrast if contrast > 1e-9 else 0.0)
