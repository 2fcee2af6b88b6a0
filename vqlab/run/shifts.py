"""Measure a model under capture shifts, on a sample of the test images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.data import SEVERITIES, SHIFTS, ImageSet, shifted
from vqlab.evaluation import AS_CAPTURED, PASS, REJECT, ShiftErrors, ShiftTable, score_images
from vqlab.features import FeatureSet
from vqlab.model import Model
from vqlab.plots import attempt, shift_chart
from vqlab.tracking import Run

SHIFT_TABLE = "shifts/shifts.json"
"""Artifact: the `ShiftTable` of a run."""
SHIFT_CHART = "shifts/shifts.png"
SEED = 1
"""Of the shifts of test images; held-out images have the seed of the data."""


def measure_shifts(model: Model, images: ImageSet, most: int) -> ShiftTable:
    """Score images under every shift at both severities, at most `most` normal and `most` anomalous
    ones, evenly spaced."""
    images = _sample(images, most)
    labels = np.array([record.label for record in images.records])
    sets = [("", AS_CAPTURED, 0.0, images)]
    for name, shift in SHIFTS.items():
        for severity, fraction in SEVERITIES.items():
            part = shifted(images, name, fraction, SEED)
            sets.append((name, severity, shift.strength(fraction), part))
    rows = []
    for name, severity, strength, part in sets:
        rejected, passed = _verdicts(model, part)
        counts = int((rejected & (labels == 0)).sum()), int((passed & (labels == 1)).sum())
        rows.append(ShiftErrors(name, severity, strength, *counts))
    normals = int((labels == 0).sum())
    return ShiftTable(normals, len(labels) - normals, model.data.shifts, tuple(rows))


def _sample(images: ImageSet, most: int) -> ImageSet:
    labels = np.array([record.label for record in images.records])
    chosen: list[int] = []
    for label in (0, 1):
        places = np.flatnonzero(labels == label)
        count = min(most, len(places))
        chosen += places[np.arange(count) * len(places) // max(count, 1)].tolist()
    return images.subset(sorted(chosen))


def _verdicts(model: Model, images: ImageSet) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return which images are rejected (N,) and which pass (N,)."""
    # `forward` rather than the backbone: these features are used once and must not fill the cache
    features = FeatureSet(images.tiled(), model.backbone.forward, model.device, batch_size=1)
    scores = score_images(model.detector, features).image_scores
    verdicts = np.array([model.thresholds.verdict(score) for score in scores.tolist()])
    return verdicts == REJECT, verdicts == PASS


def log_shifts(table: ShiftTable, promised: float | None, tracked: Run) -> None:
    """Log a table as metrics, JSON and picture of a run. promised: false-reject rate."""
    tracked.log_metrics(table.metrics)
    tracked.log_json(table.as_json(), SHIFT_TABLE)
    with attempt(SHIFT_CHART):
        tracked.log_figure(shift_chart(table, promised), SHIFT_CHART)
