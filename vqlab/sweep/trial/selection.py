"""Select scoring and thresholds of a trained detector within a trial."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vqlab.config import Settings, dump, validate, with_settings
from vqlab.data import Splits
from vqlab.evaluation import (
    VALIDATION_EVIDENCE,
    Report,
    Scored,
    Thresholds,
    ThresholdSettings,
    choose_thresholds,
    evaluate,
)
from vqlab.model import Model
from vqlab.run import CHECKPOINT, RunConfig, assess, log_evidence, scores_of_shifted
from vqlab.sweep.space.compile import Plan, scoring_of
from vqlab.sweep.trial.scoring_search import ScoringChoice, search_scoring
from vqlab.tracking import Run

CHOSEN = "chosen."
"""Prefix of the names of these settings among the parameters of a trial's run."""
RULE = "pixel F1 at the threshold on validation"
"""Rule that selects threshold settings."""


@dataclass(frozen=True)
class Selection:
    """A trial's detector with its scoring and thresholds."""

    model: Model
    report: Report
    attributes: dict[str, Any]
    """Fields of the trial's record: the chosen settings."""


def select_within(
    plan: Plan,
    tracked: Run,
    model: Model,
    config: RunConfig,
    splits: Splits,
) -> Selection:
    """Return the calibrated model of a trial with its best scoring and thresholds."""
    whole: Any = model.detector.config
    unchanged = getattr(whole, "scoring", Settings()) == scoring_of(config)
    if plan.scoring or plan.image_scoring or not unchanged:  # or the model of another run
        choice = search_scoring(model, splits, config, plan, seed=0)
    elif plan.thresholds:
        choice = ScoringChoice(dump(config), model.score_set(splits.validation))
    else:
        model, report = assess(model, config, splits)
        log_evidence(report, tracked, VALIDATION_EVIDENCE)
        return Selection(model, report, {})
    attributes: dict[str, Any] = {"scoring": choice.chosen}
    tags = {f"vqlab.{name}": str(value) for name, value in choice.chosen.items()}
    tags |= {f"vqlab.chosen_by.{name}": metric for name, metric in choice.rules.items()}
    combinations = list(plan.threshold_settings())
    tree, shifted = choice.tree, scores_of_shifted(model, config, splits)
    if combinations:
        picked, thresholds, f1 = best_thresholds(
            choice.scored, config.threshold, combinations, shifted
        )
        attributes["thresholds"] = picked
        tags |= {f"vqlab.{name}": f"{value:g}" for name, value in picked.items()}
        tags["vqlab.threshold_rule"] = f"{RULE} ({f1:.4f})"
        tree = with_settings(tree, picked)
    else:
        thresholds = choose_thresholds(choice.scored, config.threshold, shifted)
    if choice.evaluated:
        tags["vqlab.scorings_tried"] = f"{choice.evaluated} in {choice.seconds:.1f} s"
    tracked.set_tags(tags)
    if not tracked.resumed:  # else they are logged; MLflow accepts no other value
        log_chosen(tracked, {**choice.chosen, **attributes.get("thresholds", {})})
    report = evaluate(choice.scored, thresholds, keep_evidence=True)
    log_evidence(report, tracked, VALIDATION_EVIDENCE)
    measured = {"thresholds": asdict(thresholds), "validation": report.mean, "config": tree}
    model = replace(model, thresholds=thresholds, meta={**model.meta, **measured})
    return Selection(model, report, attributes)


def log_chosen(tracked: Run, settings: Mapping[str, Any]) -> None:
    """Log the settings chosen within a trial as parameters of its run, for charts."""
    tracked.log_params({CHOSEN + key: value for key, value in settings.items()})


def select_for_reused(
    plan: Plan,
    tracked: Run,
    model: Model,
    config: RunConfig,
    splits: Splits,
) -> Selection:
    """Select scoring and thresholds for the model of another run; save it in the trial's run."""
    model = replace(model, meta={**model.meta, "config": dump(config), "run_id": tracked.id})
    selection = select_within(plan, tracked, model, config, splits)
    with tempfile.TemporaryDirectory() as folder:
        selection.model.save(Path(folder) / CHECKPOINT)
        tracked.log_artifact(Path(folder) / CHECKPOINT, "checkpoint", required=True)
    tracked.log_metrics(selection.report.keyed("validation"), step=config.training.epochs)
    return selection


def best_thresholds(
    scored: Scored,
    base: ThresholdSettings,
    combinations: list[dict[str, float]],
    shifted: Sequence[Scored] = (),
) -> tuple[dict[str, float], Thresholds, float]:
    """Return the threshold settings with the highest pixel F1 on validation (the first of equals),
    their thresholds, and that F1. shifted: see `choose_thresholds`."""
    best: tuple[dict[str, float], Thresholds, float] | None = None
    for chosen in combinations:
        values = {setting.partition(".")[2]: number for setting, number in chosen.items()}
        settings = validate(ThresholdSettings, dump(base) | values, "threshold.")
        thresholds = choose_thresholds(scored, settings, shifted)
        f1 = pixel_f1(scored, thresholds.pixel)
        if best is None or f1 > best[2]:
            best = chosen, thresholds, f1
    assert best is not None
    return best


def pixel_f1(scored: Scored, threshold: float) -> float:
    """Return the F1 score of the pixels above the threshold over all images; 0 if undefined."""
    hit = flagged = defective = 0
    for place, (values, mask) in enumerate(zip(scored.maps, scored.masks, strict=True)):
        predicted = values > threshold
        if scored.inspected is not None:
            predicted &= scored.inspected[place]
        hit += int(np.count_nonzero(predicted & mask))
        flagged += int(np.count_nonzero(predicted))
        defective += int(np.count_nonzero(mask))
    return 2 * hit / (flagged + defective) if flagged + defective else 0.0
