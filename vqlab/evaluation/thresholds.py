"""Thresholds: chosen on held-out images, stored in the checkpoint, applied everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from vqlab.config import Settings
from vqlab.evaluation.scoring import Scored


class ThresholdSettings(Settings):
    """Section `threshold`: how many normal images and pixels may be flagged."""

    false_reject_rate: float = Field(default=0.05, gt=0, lt=1)
    """Share of normal images that may be called defective, with a finite-sample guarantee."""
    pixel_false_positive_rate: float = Field(default=0.005, gt=0, lt=1)
    """Share of normal pixels that may lie above the pixel threshold."""


@dataclass(frozen=True)
class Thresholds:
    """An image is called defective where its score, a pixel where its map's value, is above."""

    image: float
    pixel: float
    notes: tuple[str, ...] = ()
    """Sentences on what the thresholds can not promise."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))  # a list, when read from JSON


def choose_thresholds(normals: Scored, settings: ThresholdSettings) -> Thresholds:
    """Thresholds from held-out normal images (defects among them are left out).

    Image: the ⌈(n + 1)(1 − α)⌉-th smallest of n scores. An unseen normal image, exchangeable with
    these, exceeds it with probability at most α (split conformal prediction; Vovk et al. 2005).
    Where n is too small for α it is the largest, and a note says so. Pixel: the quantile above
    which at most the set share of these pixels lies. Raises ValueError without a normal image.
    """
    normals = normals.normals()
    count, rate = len(normals), settings.false_reject_rate
    if count == 0:
        raise ValueError("thresholds need at least one held-out normal image; got none.")
    place = math.ceil((count + 1) * (1 - rate) - 1e-9)
    notes = []
    if place > count:
        needed = math.ceil(1 / rate - 1e-9) - 1
        notes.append(
            f"The image threshold is the largest score of {count} held-out normal images: a "
            f"false-reject rate of {rate:g} can be promised from {needed} on, "
            f"here only {1 / (count + 1):.3g}."
        )
    image = np.sort(normals.image_scores)[min(place, count) - 1]
    pixels = np.concatenate([values.ravel() for values in normals.maps])
    allowed = math.floor(settings.pixel_false_positive_rate * pixels.size)
    pixel = np.partition(pixels, pixels.size - 1 - allowed)[pixels.size - 1 - allowed]
    return Thresholds(float(image), float(pixel), tuple(notes))
