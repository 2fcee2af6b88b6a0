"""Appearance and prototypes of held-out normal images, stored for `vqlab watch`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from vqlab.data import Splits
from vqlab.data.appearance import NORMAL_IMAGES, Appearance, appearances
from vqlab.evaluation import assign_concepts
from vqlab.model import Model

MAX_STORED = 1000
"""Number of images of which the appearance is stored, evenly spaced."""


def with_normal_images(model: Model, splits: Splits) -> Model:
    """Return the model with lists of the properties of held-out normal images: `brightness`,
    `sharpness` and `noise`, see `Appearance`; `concept`, the index of the prototype, if the
    detector has any; `category`, if the model has several."""
    normal = [i for i, record in enumerate(splits.validation.records) if record.label == 0]
    steps = np.linspace(0, len(normal) - 1, min(len(normal), MAX_STORED))
    images = splits.validation.subset(normal[int(step)] for step in steps)
    measured = appearances(images, splits.areas)
    concepts = assign_concepts(model.detector, model.features(images, 32))
    stored: dict[str, Any] = {
        **{name: [getattr(each, name) for each in measured] for name in Appearance._fields},
        "concept": [] if concepts is None else concepts.indices.tolist(),
    }
    if len(splits.categories) > 1:
        stored["category"] = [record.category for record in images.records]
    return replace(model, meta={**model.meta, NORMAL_IMAGES: stored})
