"""Agreement of a detector's prototypes with the categories: metrics and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vqlab.data import ImageSet, Splits
from vqlab.evaluation import Concepts, Scored, assign_concepts, crop
from vqlab.model import Model
from vqlab.plots import likelihood_figure, map_figure, save_figure, usage_figure
from vqlab.tracking import Run
from vqlab.types import ImageRecord, indices_by_category

MAX_SCORED = 16
"""Maximum number of training and of held-out images per category in the score histogram."""
_FOLDER = "concepts"
_PICTURES = ("usage.png", "map.png", "likelihood.png")


def concept_metrics(concepts: Concepts | None, prefix: str) -> dict[str, float]:
    """Return `Concepts.metrics` by `<prefix>/<name>`; empty for None."""
    return {} if concepts is None else {f"{prefix}/{k}": v for k, v in concepts.metrics().items()}


def training_concepts(model: Model, splits: Splits) -> Concepts | None:
    """Return the prototypes of the training images; None if the detector has none, and with tiles,
    whose prototypes are not those of images."""
    if splits.train.settings.tiles.size is not None:
        return None
    return assign_concepts(model.detector, model.features(splits.train, 32))


def show_concepts(
    concepts: Concepts | None,
    model: Model,
    splits: Splits,
    scored: Mapping[str, Scored],
    tracked: Run,
    results: Path,
) -> None:
    """Draw prototypes (`concepts/usage.png`, `concepts/map.png`) and histograms of scores
    (`concepts/likelihood.png`), in `results` and as artifacts.

    concepts: of the training images. scored: the sets `held-out` and `test`. Pictures of an earlier
    run are deleted.
    """
    folder = results / _FOLDER
    for name in _PICTURES:
        (folder / name).unlink(missing_ok=True)
    if concepts is None:
        return
    training = model.score_set(splits.train.subset(_evenly_spaced(splits.train.records)))
    held_out = scored["held-out"].take(_evenly_spaced(scored["held-out"].records))
    scores = _scores({"training": training, "held-out": held_out}, scored["test"])
    figures = (
        usage_figure(concepts),
        map_figure(concepts, partial(_picture, splits.train)),
        likelihood_figure(scores, model.thresholds.image),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in zip(_PICTURES, figures, strict=True):
        save_figure(figure, folder / name)
        tracked.log_artifact(folder / name, _FOLDER)


def _picture(images: ImageSet, index: int) -> Any:
    """Return the image (h, w, 3) uint8 at network size, without padding."""
    resized = images.resized(index)
    return crop(resized.image, resized.geometry)


def _scores(normal: Mapping[str, Scored], test: Scored) -> dict[str, dict[str, Any]]:
    """Return image scores by category and set, as `likelihood_figure` takes them."""
    scores: dict[str, dict[str, Any]] = {}
    for name, part in normal.items():
        for category, indices in part.by_category().items():
            scores.setdefault(category, {})[name] = part.image_scores[indices]
    for category, indices in test.by_category().items():
        for name, label in (("test normal", 0), ("test defects", 1)):
            rows = np.array(indices)[test.labels[indices] == label]
            scores.setdefault(category, {})[name] = test.image_scores[rows]
    return dict(sorted(scores.items()))


def _evenly_spaced(records: Sequence[ImageRecord]) -> list[int]:
    """Return the indices of at most `MAX_SCORED` images of each category, evenly spaced."""
    indices: list[int] = []
    for group in indices_by_category(records).values():
        steps = np.linspace(0, len(group) - 1, min(len(group), MAX_SCORED))
        indices += [group[int(step)] for step in steps]
    return indices
