"""Appearance and prototypes of held-out normal images, stored for `vqlab watch`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vqlab.data import Splits
from vqlab.data.appearance import NORMAL_IMAGES, appearances
from vqlab.evaluation import assign_concepts
from vqlab.model import Model

MAX_STORED = 1000
"""Number of images of which the appearance is stored, evenly spaced."""


def with_normal_images(model: Model, splits: Splits) -> Model:
    """Return the model with lists of the `brightness` and `sharpness`, see `Appearance`, and the
    `concept` (index of the prototype, if the detector has any) of held-out normal images."""
    normal = [i for i, record in enumerate(splits.validation.records) if record.label == 0]
    steps = np.linspace(0, len(normal) - 1, min(len(normal), MAX_STORED))
    images = splits.validation.subset(normal[int(step)] for step in steps)
    measured = appearances(images)
    concepts = assign_concepts(model.detector, model.features(images, 32))
    stored = {
        "brightness": [float(f"{each.brightness:.5g}") for each in measured],
        "sharpness": [float(f"{each.sharpness:.5g}") for each in measured],
        "concept": [] if concepts is None else concepts.indices.tolist(),
    }
    return replace(model, meta={**model.meta, NORMAL_IMAGES: stored})
