"""Constraints of a trial: costs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from vqlab.data import Splits
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.types import UserError

_N_TIMED = 8
"""Number of images for measuring the time per image."""


def costs(model: Model, splits: Splits, names: set[str]) -> dict[str, float]:
    """Return the costs of the model that are among `names`: parameters, and CPU-seconds per image
    (all threads, from file to score)."""
    values: dict[str, float] = {}
    if "cost/parameters" in names:
        every = [*model.detector.parameters(), *model.backbone.parameters()]
        values["cost/parameters"] = float(sum(weights.numel() for weights in every))
    if "cost/cpu_seconds_per_image" in names:
        timed = splits.train.records[:_N_TIMED]
        started = time.process_time()
        for record in timed:
            model.for_category(record.category).score(record.path)
        values["cost/cpu_seconds_per_image"] = (time.process_time() - started) / len(timed)
    return values


def number(metrics: Mapping[str, float], name: str, report: Report) -> float:
    """Return a metric of a trial. Raises UserError if it is missing or not finite."""
    value = metrics.get(name)
    if value is None:
        names = ", ".join(sorted(metrics)) or "none"
        raise UserError(
            f"the objective {name} is not among the trial's metrics ({names}); "
            f"{' '.join(report.notes)}"
        )
    if not math.isfinite(value):
        raise UserError(f"the objective {name} must be finite; got {value}.")
    return value
