"""What a trial is worth and what it costs: the numbers that objectives and limits are about."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from vqlab.data import Splits
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.types import UserError

_COSTED_ON = 8
"""Images on which a cost in seconds is measured."""


def costs(model: Model, splits: Splits, asked: set[str]) -> dict[str, float]:
    """What the model costs, as far as it is asked for. CPU-seconds: of all threads, from the file
    to the score."""
    found: dict[str, float] = {}
    if "cost/parameters" in asked:
        every = [*model.detector.parameters(), *model.backbone.parameters()]
        found["cost/parameters"] = float(sum(weights.numel() for weights in every))
    if "cost/cpu_seconds_per_image" in asked:
        few = splits.train.samples[:_COSTED_ON]
        started = time.process_time()
        for sample in few:
            model.score(sample.path)
        found["cost/cpu_seconds_per_image"] = (time.process_time() - started) / len(few)
    return found


def number(metrics: Mapping[str, float], name: str, report: Report) -> float:
    """A metric of a trial. Raises UserError where there is none, or no number."""
    value = metrics.get(name)
    if value is None:
        known = ", ".join(sorted(metrics)) or "none"
        raise UserError(
            f"the objective {name} is not among the trial's metrics ({known}); "
            f"{' '.join(report.notes)}"
        )
    if not math.isfinite(value):
        raise UserError(f"the objective {name} is {value}, no number.")
    return value
