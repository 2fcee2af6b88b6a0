"""The operating points of a served model: counts of errors for each image threshold."""

from __future__ import annotations

from typing import Any

from vqlab.errors import UserError
from vqlab.evaluation import EVIDENCE, CalibrationScores, count_above, load_evidence
from vqlab.metrics import Count, rate_interval
from vqlab.serve.answers import model_answer
from vqlab.serve.champions import ServedModel
from vqlab.tracking import Tracker


def operating_points(served: ServedModel, tracker: Tracker) -> dict[str, Any]:
    """Return scores of held-out normal images and of known defects, with the counts behind them.

    `normals`: `count`, sorted `scores` (quantiles, if there are many images), for each score the
    number of images `above`, and `intervals`: low and high end of the 95 % interval of the share
    for 0, 1, … `count` images. `defects`: the same for the test defects of the run, without
    `above`. null where the model or the run has no scores.
    """
    return {
        **model_answer(served),
        "detector": served.detector,
        "normals": normal_scores(served.model.thresholds.calibration),
        "defects": defect_scores(known_defects(served, tracker)),
    }


def normal_scores(calibration: CalibrationScores | None) -> dict[str, Any] | None:
    """Return the field `normals`."""
    if calibration is None:
        return None
    scores = calibration.scores or calibration.quantiles
    return {
        "count": calibration.count,
        "scores": list(scores),
        "above": [count_above(calibration, score) for score in scores],
        "intervals": _intervals(calibration.count),
    }


def defect_scores(scores: list[float]) -> dict[str, Any] | None:
    """Return the field `defects`. scores: sorted."""
    count = len(scores)
    return {"count": count, "scores": scores, "intervals": _intervals(count)} if scores else None


def known_defects(served: ServedModel, tracker: Tracker) -> list[float]:
    """Return the sorted image scores of the test defects of the model's run; empty if there are
    none or the run was deleted."""
    record = tracker.get(served.run_id)
    try:
        parts = load_evidence(record.artifact(EVIDENCE)) if record else {}
        parts = {served.category: parts[served.category]} if served.category in parts else parts
    except UserError:
        return []
    scores = [part.evidence.scores[part.evidence.labels == 1] for part in parts.values()]
    return sorted(float(score) for each in scores for score in each)


def _intervals(total: int) -> list[list[float]]:
    return [list(rate_interval([Count(hits, total)])) for hits in range(total + 1)]
