"""Properties of images by which `vqlab watch` detects drift."""

from __future__ import annotations

from typing import Any

from vqlab.data.appearance import appearance_of
from vqlab.detectors import HasPrototypes
from vqlab.model import Prediction


def properties_of(prediction: Prediction) -> dict[str, Any]:
    """Return brightness, sharpness and noise, see `Appearance`, and the concept of an image; the
    concept is None for a detector without concepts."""
    model = prediction.model
    appearance = appearance_of(prediction.image, model.data, model.area)
    concept = None
    if isinstance(model.detector, HasPrototypes):
        prototypes = model.detector.prototypes(prediction.extracted)
        concept = None if prototypes is None else int(prototypes.indices[0])
    return {**appearance._asdict(), "concept": concept}
