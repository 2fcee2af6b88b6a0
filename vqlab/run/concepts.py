"""Were concepts found? What a detector's prototypes tell of the categories, and pictures of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vqlab.data import ImageSet, Splits
from vqlab.evaluation import Scored, crop, find_concepts
from vqlab.model import Model
from vqlab.plots import likelihood_figure, map_figure, save_figure, usage_figure
from vqlab.tracking import Run

MOST_SCORED = 30
"""Images at most of each category, training and held-out, that are scored for their histogram."""
_FOLDER = "concepts"
_PICTURES = ("usage.png", "map.png", "likelihood.png")


def concept_metrics(model: Model, images: ImageSet, room: str) -> dict[str, float]:
    """`<room>/concept_live` and, of several categories, `…/concept_information` and `…/purity`,
    see `FoundConcepts.metrics`; nothing where the detector has no prototypes."""
    found = find_concepts(model.detector, model.backbone, images, model.device)
    return {} if found is None else {f"{room}/{k}": v for k, v in found.metrics().items()}


def show_concepts(
    model: Model, splits: Splits, scored: Scored, tracked: Run, results: Path
) -> None:
    """Draw the prototypes of the training images, `concepts/usage.png` and `concepts/map.png`, and
    how likely images are, `concepts/likelihood.png`: in `results` and with the run.

    scored: the test set. An older run's pictures vanish where the detector has no prototypes.
    """
    folder = results / _FOLDER
    for name in _PICTURES:
        (folder / name).unlink(missing_ok=True)
    found = find_concepts(model.detector, model.backbone, splits.train, model.device)
    if found is None:
        return
    scores = _scores(model, splits, scored)
    figures = (
        usage_figure(found),
        map_figure(found, partial(_picture, splits.train)),
        likelihood_figure(scores, model.thresholds.image),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in zip(_PICTURES, figures, strict=True):
        save_figure(figure, folder / name)
        tracked.log_artifact(folder / name, _FOLDER)


def _picture(images: ImageSet, index: int) -> Any:
    """The image (h, w, 3) uint8 at the network's size, without padding."""
    resized = images.resized(index)
    return crop(resized.image, resized.geometry)


def _scores(model: Model, splits: Splits, scored: Scored) -> dict[str, dict[str, Any]]:
    """Image scores by category and set, as `likelihood_figure` takes them."""
    found: dict[str, dict[str, Any]] = {}
    for name, images in (("training", splits.train), ("held-out", splits.held_out)):
        part = model.score_set(_some(images))
        for category, places in part.by_category().items():
            found.setdefault(category, {})[name] = part.image_scores[places]
    for category, places in scored.by_category().items():
        for name, label in (("test normal", 0), ("test defects", 1)):
            chosen = np.array(places)[scored.labels[places] == label]
            found.setdefault(category, {})[name] = scored.image_scores[chosen]
    return dict(sorted(found.items()))


def _some(images: ImageSet) -> ImageSet:
    """At most `MOST_SCORED` images of each category, evenly spaced."""
    places: dict[str, list[int]] = {}
    for index, sample in enumerate(images.samples):
        places.setdefault(sample.category, []).append(index)
    chosen: list[int] = []
    for own in places.values():
        steps = np.linspace(0, len(own) - 1, min(len(own), MOST_SCORED))
        chosen += [own[int(step)] for step in steps]
    return images.subset(chosen)
