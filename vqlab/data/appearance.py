"""Brightness, sharpness and noise of images, by which changes of a camera are detected."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from vqlab.data.image_cache import THREADS
from vqlab.data.image_set import ImageSet
from vqlab.data.settings import DataSettings
from vqlab.pixels.area import InspectedArea
from vqlab.pixels.decoding import Pixels
from vqlab.pixels.resizing import Mask, fit_image

NORMAL_IMAGES = "normal_images"
"""Key, in the metadata of a checkpoint, of the appearance of held-out normal images."""


class Appearance(NamedTuple):
    """Appearance of an image, before `data.brightness` is applied; 5 significant digits, as stored
    in checkpoints."""

    brightness: float
    """Mean grey of the inspected pixels at network size, in [0, 1]."""
    sharpness: float
    """Variance of the Laplacian divided by the variance of the grey values, both over the inspected
    pixels at network size: independent of gain and offset. 0 for a uniform image."""
    noise: float
    """Standard deviation of the noise in grey levels, estimated over the inspected pixels at the
    original size (Immerkær 1996, "Fast noise variance estimation"), divided by the square root of
    their mean grey in [0, 1]: photon noise grows so with the light. It includes fine texture; JPEG
    compression and blur reduce it. 0 for a black image."""


def appearance_of(image: Pixels, settings: DataSettings, area: InspectedArea | None) -> Appearance:
    """Return the appearance of an image (H, W, 3). Raises UserError for an aspect ratio that does
    not fit the inspected area."""
    square, geometry = fit_image(image if area is None else area.fill(image), settings)
    inspected = None if area is None else area.fitted(geometry.original, settings)
    box = geometry.window
    grey = square[box].mean(axis=2, dtype=np.float32) / 255
    edges = np.asarray(cv2.Laplacian(grey, cv2.CV_32F))
    if inspected is not None:
        grey, edges = grey[inspected[box]], edges[inspected[box]]
    contrast = float(grey.var())
    sharpness = float(edges.var()) / contrast if contrast > 1e-9 else 0.0
    noise = _noise(image, None if area is None else area.at(geometry.original))
    return Appearance(*(float(f"{value:.5g}") for value in (grey.mean(), sharpness, noise)))


def appearances(images: ImageSet, areas: Mapping[str, InspectedArea | None]) -> list[Appearance]:
    """Return the appearance of each image of a set, as `appearance_of` its file.

    areas: inspected area by category; others: all pixels. Images are decoded again.
    """

    def appearance(index: int) -> Appearance:
        area = areas.get(images.records[index].category)
        return appearance_of(images.original(index), images.settings, area)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(appearance, range(len(images))))


_DIFFERENCES = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""Difference of two Laplacians: 0 on planes and straight edges along an axis."""


def _noise(image: Pixels, inspected: Mask | None) -> float:
    grey = cv2.transform(image.astype(np.float32), np.full((1, 3), 1 / 3, np.float32))
    response = np.abs(cv2.filter2D(grey, cv2.CV_32F, _DIFFERENCES))
    if inspected is not None:
        grey, response = grey[inspected], response[inspected]
    light = float(grey.mean()) / 255
    deviation = math.sqrt(math.pi / 2) / 6 * float(response.mean())
    return deviation / math.sqrt(light) if light > 0 else 0.0
