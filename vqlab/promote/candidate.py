"""The run to promote: a finished training not influenced by the test set."""

from __future__ import annotations

import json
import math
from pathlib import Path

from vqlab.errors import UserError, did_you_mean
from vqlab.evaluation import ShiftTable
from vqlab.metrics import lower_is_better
from vqlab.model import Model
from vqlab.promote.reproduce import model_config, same_data
from vqlab.run import SHIFT_TABLE, log_shifts, measure_shifts, test_model
from vqlab.text import shell_word
from vqlab.tracking import RunRecord, Tracker, matches_categories

KINDS = ("train", "trial", "threshold")
"""Kinds of runs that have a model."""
_EVALUATION = "vqlab.test_for_promotion"
"""Tag of a run whose test evaluation is part of a promotion: `started` or `finished`."""
_MAX_CANDIDATES = 8
"""Maximum number of candidates that an error lists."""


def find_candidate(tracker: Tracker, category: str, ref: str | None, metric: str) -> RunRecord:
    """Return the run to promote. Raises UserError if it must not be promoted."""
    record = tracker.find(ref or _best_run(tracker, category, metric))
    record.require_categories(category)
    if record.status != "FINISHED" or record.tags.get("vqlab.kind") not in KINDS:
        raise UserError(
            f"run {record.short} must be a finished training run to be promoted; got a "
            f"{record.tags.get('vqlab.kind', 'run')} with status {record.status}."
        )
    objectives = [record.tags.get(key, "") for key in ("vqlab.objective", "vqlab.chosen_by")]
    epoch_on_test = record.tags.get("vqlab.selected_on") == "test"
    if epoch_on_test or any(objective.startswith("test/") for objective in objectives):
        selected = "epoch was" if epoch_on_test else "settings were"
        raise UserError(
            f"gate selection: run {record.short} cannot be promoted: its {selected} selected on "
            "the test set, so its test metrics are biased; promote a run selected on validation."
        )
    return record


def _best_run(tracker: Tracker, category: str, metric: str) -> str:
    """Return the ID of the best run of the category's latest study."""
    studies = [run for run in tracker.runs(kinds=["study"]) if "vqlab.best_run" in run.tags]
    studies = [run for run in studies if matches_categories(category, run.categories)]
    if not studies:
        raise UserError(_candidates(tracker, category, metric))
    best = studies[0].tags["vqlab.best_run"]
    if not any(run.run_id == best for run in tracker.runs(kinds=["trial"])):
        raise UserError(
            f"the run of the best trial of study {studies[0].tags['vqlab.study']} was deleted; "
            "re-run the sweep to select the best of the others, restore the run in the MLflow UI, "
            "or choose a run with --run ID."
        )
    return best


def _candidates(tracker: Tracker, category: str, metric: str) -> str:
    """Return the error that lists runs to promote, if no study has a best run."""
    runs = [r for r in tracker.runs(kinds=["train", "trial"]) if r.status == "FINISHED"]
    # The checkpoint of a trial without test metrics has most likely been deleted.
    runs = [r for r in runs if r.tags["vqlab.kind"] == "train" or _is_tested(r)]
    candidates = [r for r in runs if matches_categories(category, r.categories)]
    if not candidates:
        hint = did_you_mean(category, {r.tags.get("vqlab.category", "") for r in runs})
        hint = hint or f"run a sweep first (vqlab sweep --category {shell_word(category)})."
        return f"category {category} has no finished study and no run to promote; {hint}"
    ascending = lower_is_better(metric)
    worst = math.inf if ascending else -math.inf
    candidates.sort(key=lambda r: r.metrics.get(metric, worst), reverse=not ascending)
    lines = [
        f"category {category} has no finished study with a best run; choose one of its runs, "
        f"vqlab promote --category {shell_word(category)} --run ID:"
    ]
    for run in candidates[:_MAX_CANDIDATES]:
        value = f"{run.metrics[metric]:.4f}" if metric in run.metrics else "not measured yet"
        lines.append(f"  {run.run_id[:12]}  {metric} {value}  {run.name}")
    if len(candidates) > _MAX_CANDIDATES:
        more = len(candidates) - _MAX_CANDIDATES
        lines.append(f"  and {more} more: vqlab leaderboard --category {shell_word(category)}")
    return "\n".join(lines)


def _is_tested(record: RunRecord) -> bool:
    """Return whether the run was evaluated on test, and no evaluation was interrupted."""
    complete = record.tags.get(_EVALUATION) != "started"
    return complete and any(key.startswith("test/") for key in record.metrics)


def with_test_metrics(
    tracker: Tracker, record: RunRecord, data: Path | None, results: Path
) -> RunRecord:
    """Return the run with its test metrics; evaluate it on test if it has none."""
    if _is_tested(record):
        return record
    model = Model.load(record.checkpoint())
    config = model_config(model, data)
    splits = same_data(record, config, model)
    run = tracker.amend(record.run_id, repeated=_EVALUATION in record.tags)
    run.set_tags({_EVALUATION: "started"})
    test_model(model, config, splits, run, results)
    run.set_tags({_EVALUATION: "finished"})
    return tracker.find(record.run_id)


def with_shift_table(
    tracker: Tracker, record: RunRecord, data: Path | None, most: int
) -> RunRecord:
    """Return the run with its errors under capture shifts; measure them if it has none.

    most: maximum number of normal, and of anomalous, test images; 0: measure nothing.
    """
    if most == 0 or shift_table(record) is not None:
        return record
    model = Model.load(record.checkpoint())
    splits = same_data(record, model_config(model, data), model)
    table = measure_shifts(model, splits.test, most)
    log_shifts(table, model.thresholds.promised, tracker.amend(record.run_id))
    return tracker.find(record.run_id)


def shift_table(record: RunRecord) -> ShiftTable | None:
    """Return the errors of a run under capture shifts; None if they were not measured."""
    if not any(key.startswith("shift/") for key in record.metrics):
        return None
    try:
        return ShiftTable.from_json(json.loads(record.artifact(SHIFT_TABLE).read_text("utf-8")))
    except UserError:  # it could not be stored
        return None
