"""Move the thresholds of a trained model, as a run with the same detector and a new checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.config import Tree, dump, merge, nest
from vqlab.data import Splits
from vqlab.data.appearance import NORMAL_IMAGES
from vqlab.evaluation import (
    CalibrationScores,
    Scored,
    Thresholds,
    combined_scores,
    conformal_threshold,
    evaluate,
)
from vqlab.evaluation.operating_point import OperatingPoint
from vqlab.model import Model
from vqlab.promote import model_config, same_data
from vqlab.run import CHECKPOINT, THRESHOLD_OF, TRAINED_TAG, RunConfig, scores_of_shifted, start
from vqlab.text import category_text
from vqlab.threshold.good_images import GoodImages, OnProgress, score_good_images, table_of
from vqlab.threshold.targets import (
    Choice,
    MaxRejects,
    Target,
    choose_image_threshold,
    operating_points,
    point_at,
)
from vqlab.tracking import RunRecord, Tracker

Array = NDArray[Any]
CHOICE = "threshold/choice.json"
"""Artifact: target, old and new threshold, errors, and the images that set the threshold."""
_COPIED = (
    "vqlab.objective", "vqlab.chosen_by", "vqlab.selected_on", "vqlab.git_dirty",
    "mlflow.source.git.commit",
)  # fmt: skip
"""Tags of the training run that also apply to the changed model."""


@dataclass(frozen=True)
class ThresholdMove:
    """A planned move of an image threshold; nothing is stored yet."""

    record: RunRecord
    """Run of the model."""
    model: Model
    config: RunConfig
    splits: Splits
    validation: Scored
    normals: Array
    """Scores (N,) of the normal images that set the threshold."""
    anomalies: Array
    """Scores (M,) of the anomalous validation images."""
    good: GoodImages | None
    """New normal images; None: the held-out normal images are used."""
    target: Target | None
    choice: Choice | None
    """None without a target."""

    @property
    def current(self) -> OperatingPoint:
        """Errors of the current threshold."""
        return self.at(self.model.thresholds.image)

    @property
    def moved(self) -> OperatingPoint | None:
        """Errors of the chosen threshold."""
        return None if self.choice is None else self.at(self.choice.threshold)

    def at(self, threshold: float) -> OperatingPoint:
        """Return the errors of a threshold."""
        return point_at(threshold, self.normals, self.anomalies)

    @property
    def curve(self) -> list[OperatingPoint]:
        """Errors of every threshold, see `operating_points`."""
        return operating_points(self.normals, self.anomalies)

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of the changed model, with a review threshold if it had one and the choice
        guarantees a false-reject rate; the current ones without a target."""
        old, choice = self.model.thresholds, self.choice
        if choice is None:
            return old
        summary = CalibrationScores.of(np.sort(self.normals))
        notes = choice.notes + (self.good.notes if self.good else ())
        promised = choice.promised
        new = Thresholds(
            choice.threshold, old.pixel, notes, choice.method, promised, summary,
            region_height=old.region_height,
        )  # fmt: skip
        if old.review is None:
            return new
        if promised is None or old.promised is None or old.promised_review is None:
            note = "Without a promised false-reject rate there is no review."
            return replace(new, notes=(*notes, note))
        rate = promised + old.promised_review - old.promised
        if rate >= 1:
            note = "The rates of rejects and review sum to 1 or more, so there is no review."
            return replace(new, notes=(*notes, note))
        review, promised, more = conformal_threshold(self.normals, rate)
        return replace(new, review=review, promised_review=promised, notes=(*notes, *more))

    @property
    def category(self) -> str:
        return category_text(self.model.categories)

    @property
    def image_names(self) -> tuple[str, str]:
        """Names of the normal and of the anomalous images, for tables and figures."""
        synthetic = self.config.data.validation.source != "test"
        normals = "new good images" if self.good else "held-out normal images"
        return normals, "synthetic anomalies" if synthetic else "anomalous validation images"


def plan_move(
    tracker: Tracker,
    record: RunRecord,
    checkpoint: Path,
    target: Target | None,
    good: Path | None = None,
    data: Path | None = None,
    on_progress: OnProgress = lambda task, done, total: None,
) -> ThresholdMove:
    """Score the images that set the threshold, and choose it; no test image is scored.

    good: folder of new normal images; default: the held-out normal images. Escapes are counted
    among the anomalous validation images. data: the folder of the images if they were moved. Raises
    UserError if the data have changed, or `score_good_images` refuses an image.
    """
    model = Model.load(checkpoint)
    config = model_config(model, data)
    splits = same_data(record, config, model)
    images = score_good_images(model, good, splits, on_progress) if good else None
    batch_size = config.evaluation.batch_size
    progress = partial(on_progress, "scoring validation images")
    validation = model.score_set(splits.validation, progress, batch_size)
    scores = validation.image_scores
    shifted = () if images else scores_of_shifted(model, config, splits)
    held_out = [scores[validation.labels == 0], *(each.image_scores for each in shifted)]
    normals = images.scores if images else combined_scores(held_out)
    anomalies = scores[validation.labels == 1]
    choice = None if target is None else choose_image_threshold(normals, anomalies, target)
    return ThresholdMove(
        record, model, config, splits, validation, normals, anomalies, images, target, choice
    )


def save_move(tracker: Tracker, move: ThresholdMove) -> str:
    """Store the changed model as a run; return its ID. A promotion evaluates it on test."""
    record, thresholds = move.record, move.thresholds
    config = move.config
    if isinstance(move.target, MaxRejects):
        settings = {"method": "conformal", "false_reject_rate": move.target.rate}
        config = config.model_copy(
            update={"threshold": config.threshold.model_copy(update=settings)}
        )
    tags = {key: record.tags[key] for key in _COPIED if key in record.tags}
    tags |= {
        "vqlab.kind": "threshold",
        THRESHOLD_OF: record.tags.get(THRESHOLD_OF, record.run_id),
        TRAINED_TAG: "",  # sweeps reuse the training itself
    }
    name = f"threshold of {record.name.removeprefix('threshold of ')}"
    report = evaluate(move.validation, thresholds)
    with start(tracker, config, move.splits, name, tags) as tracked:
        meta = merge(move.model.meta, nest("config.threshold", dump(config.threshold)))
        meta |= {
            "thresholds": asdict(thresholds), "run_id": tracked.id, "validation": report.mean
        }  # fmt: skip
        if move.good is not None:
            meta[NORMAL_IMAGES] = move.good.properties
        file = tracked.folder / CHECKPOINT
        replace(move.model, thresholds=thresholds, meta=meta).save(file)
        tracked.log_artifact(file, "checkpoint", required=True)
        file.unlink()
        codebooks = {k: v for k, v in record.metrics.items() if k.startswith("codebook/")}
        tracked.log_metrics(codebooks | report.keyed("validation"))
        tracked.log_json(_choice_tree(move), CHOICE)
    return tracked.id


def _choice_tree(move: ThresholdMove) -> Tree:
    """Return the target, the chosen threshold and its images as JSON values."""
    points = {"current": move.current, "moved": move.moved}
    target = move.target
    return {
        "run_id": move.record.run_id,
        "target": target and {type(target).__name__: asdict(target)},
        "notes": list(move.choice.notes) if move.choice else [],
        "points": {name: point and asdict(point) for name, point in points.items()},
        "normal_images": move.image_names[0],
        "anomalous_images": move.image_names[1],
        "good_images": table_of(move.good) if move.good else [],
    }
