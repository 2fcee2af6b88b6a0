"""Threshold settings searched on the scores of a trained detector."""

from __future__ import annotations

import numpy as np

from vqlab.config import dump, validate
from vqlab.evaluation import Scored, Thresholds, ThresholdSettings, choose_thresholds

RULE = "pixel F1 at the threshold on the drawn defects"
"""What chooses among threshold settings."""


def best_thresholds(
    scored: Scored, base: ThresholdSettings, combinations: list[dict[str, float]]
) -> tuple[dict[str, float], Thresholds, float]:
    """Of several threshold settings those of highest pixel F1 on the drawn defects, the
    thresholds they give, and that F1. The first of equals wins."""
    best: tuple[dict[str, float], Thresholds, float] | None = None
    for chosen in combinations:
        values = {setting.partition(".")[2]: number for setting, number in chosen.items()}
        settings = validate(ThresholdSettings, dump(base) | values, "threshold.")
        thresholds = choose_thresholds(scored, settings)
        f1 = pixel_f1(scored, thresholds.pixel)
        if best is None or f1 > best[2]:
            best = chosen, thresholds, f1
    assert best is not None
    return best


def pixel_f1(scored: Scored, threshold: float) -> float:
    """F1 of the flagged pixels over all images; 0 where none is both flagged and defective."""
    hit = flagged = defective = 0
    for values, mask in zip(scored.maps, scored.masks, strict=True):
        predicted = values > threshold
        hit += int(np.count_nonzero(predicted & mask))
        flagged += int(np.count_nonzero(predicted))
        defective += int(np.count_nonzero(mask))
    return 2 * hit / (flagged + defective) if flagged + defective else 0.0
