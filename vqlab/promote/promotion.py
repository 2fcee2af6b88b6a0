"""Promotion: a checkpoint becomes its category's champion if it is better on the same test data."""

from __future__ import annotations

import contextlib
import getpass
import math
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from vqlab.errors import UserError, did_you_mean
from vqlab.metrics import less_is_better
from vqlab.model import Model
from vqlab.promote.comparison import (
    FIRST,
    VALIDATION,
    WITHOUT_TEST,
    MetricComparison,
    champion_run,
    champion_values,
    default_metric,
    require_metric,
    require_test,
    run_summary,
    validation_part,
    value_of,
)
from vqlab.promote.lock import one_at_a_time
from vqlab.promote.reproduce import model_config, reproduce, same_data
from vqlab.run import test_model
from vqlab.text import category_text
from vqlab.tracking import CHECKPOINT, RunRecord, Tracker, Version, matches_categories

_MAX_CANDIDATES = 8
"""Maximum number of candidates that an error lists."""


@dataclass(frozen=True)
class Promotion:
    """The result of a promotion."""

    version: int | None
    """The registered version; None if none was registered."""
    promoted: bool
    """Whether the champion changed."""
    is_champion: bool
    """Whether the run is the champion now."""
    reason: str
    """One sentence."""
    run_id: str
    value: float | None
    champion_value: float | None
    """The earlier champion's value on the same data; None if there is none."""


@one_at_a_time
def promote(
    tracker: Tracker,
    category: str,
    *,
    ref: str | None = None,
    metric: str | None = None,
    min_delta: float = 0.0,
    force: bool = False,
    without_test: bool = False,
    data: Path | None = None,
) -> Promotion:
    """Make a run's checkpoint the champion of `category` if it is better by more than `min_delta`.

    ref: run ID, unique ID prefix or name; default: the best run of the latest study. metric:
    default: the first of image AUROC, pixel AUROC and AUPRO on test that both runs have. Values
    are compared on the same data (fingerprint, and images taken by validation). The
    champion's values are kept with its version, so its run may be deleted. force: skip the
    comparison, not the checks. without_test: accept a run whose data have no test images, and
    compare a `validation/…` metric, measured on synthetic anomalies. data: the folder of the
    images if they were moved.

    A refusal is returned, not raised. Raises UserError if nothing can be compared.
    """
    if metric is not None:
        require_metric(metric, without_test)
    record = _candidate(tracker, category, ref, metric or FIRST[0])
    champion = tracker.registry.by_alias(record.categories)
    if champion is not None and champion.run_id == record.run_id:
        value, number = record.metrics.get(metric or FIRST[0]), champion.version
        reason = f"{record.name} is already the champion of {category} (version {number})."
        return Promotion(number, False, True, reason, record.run_id, value, None)
    require_test(record, without_test)
    if not without_test:
        record = _with_test_metrics(tracker, record, data)
    values = champion_values(tracker, champion, record) if champion else {}
    metric = metric or (WITHOUT_TEST if without_test else default_metric(record, values))
    value, champion_value = value_of(record, metric), values.get(metric)
    comparison = MetricComparison(metric, value, champion_value, min_delta)
    refusal = _refusal(tracker, record, champion, comparison, without_test)
    if refusal and not force:
        reason = f"{record.name} was not promoted: {refusal}."
        return Promotion(None, False, False, reason, record.run_id, value, champion_value)
    reproduced = reproduce(record, data)
    reason = _reason(category, champion, comparison, forced=bool(refusal))
    if without_test:
        reason = f"{reason.removesuffix('.')}; no real test image was used."
    version = _registered(tracker, record)
    tags = {"vqlab.reason": reason, "vqlab.reproduced": reproduced}
    tracker.registry.set_tags(version, _provenance(record, comparison) | tags)
    tracker.registry.set_champion(version, champion)
    return Promotion(version.version, True, True, reason, record.run_id, value, champion_value)


def _candidate(tracker: Tracker, category: str, ref: str | None, metric: str) -> RunRecord:
    """Return the run to promote. Raises UserError if it must not be promoted."""
    record = tracker.find(ref or _best_run(tracker, category, metric))
    if not matches_categories(category, record.categories):
        trained = category_text(record.categories) or "no category"
        raise UserError(
            f"run {record.short} was trained on {trained}, not {category}; choose a run of "
            f"{category}."
        )
    if record.status != "FINISHED" or record.tags.get("vqlab.kind") not in ("train", "trial"):
        raise UserError(
            f"run {record.short} must be a finished training run to be promoted; got a "
            f"{record.tags.get('vqlab.kind', 'run')} with status {record.status}."
        )
    objectives = [record.tags.get(key, "") for key in ("vqlab.objective", "vqlab.chosen_by")]
    epoch_on_test = record.tags.get("vqlab.selected_on") == "test"
    if epoch_on_test or any(objective.startswith("test/") for objective in objectives):
        selected = "epoch was" if epoch_on_test else "settings were"
        raise UserError(
            f"run {record.short} cannot be promoted: its {selected} selected on the test set, so "
            "its test metrics are biased; promote a run selected on validation."
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
        hint = hint or f"run a sweep first (make sweep CLASS={category})."
        return f"category {category} has no finished study and no run to promote; {hint}"
    ascending = less_is_better(metric)
    worst = math.inf if ascending else -math.inf
    candidates.sort(key=lambda r: r.metrics.get(metric, worst), reverse=not ascending)
    lines = [
        f"category {category} has no finished study with a best run; choose one of its "
        f"runs with --run ID (make promote CLASS={category} RUN=ID):"
    ]
    for run in candidates[:_MAX_CANDIDATES]:
        value = f"{run.metrics[metric]:.4f}" if metric in run.metrics else "not measured yet"
        lines.append(f"  {run.run_id[:12]}  {metric} {value}  {run.name}")
    if len(candidates) > _MAX_CANDIDATES:
        more = len(candidates) - _MAX_CANDIDATES
        lines.append(f"  and {more} more: vqlab leaderboard --category {category}")
    return "\n".join(lines)


def _is_tested(record: RunRecord) -> bool:
    return any(key.startswith("test/") for key in record.metrics)


def _with_test_metrics(tracker: Tracker, record: RunRecord, data: Path | None) -> RunRecord:
    """Return the run with its test metrics; evaluate it on test if it has none."""
    if _is_tested(record):
        return record
    model = Model.load(record.checkpoint())
    config = model_config(model, data)
    run = tracker.amend(record.run_id)
    test_model(model, config, same_data(record, config), run, Path("results"))
    return tracker.find(record.run_id)


def _refusal(
    tracker: Tracker,
    record: RunRecord,
    champion: Version | None,
    comparison: MetricComparison,
    without_test: bool,
) -> str:
    """Return why the run must not become champion; empty if it may."""
    if champion is None or comparison.sufficient:
        return ""
    metric, name = comparison.metric, f"the champion (version {champion.version})"
    if comparison.champion_value is not None:
        return f"its {metric} {comparison.describe(champion.version)}"
    if metric.startswith("validation/"):
        return (
            f"{name} has no {metric} on the same validation images; train both on the same data "
            f"with the same settings of {', '.join(VALIDATION)} (section data), or promote with "
            "--force"
        )
    if not without_test:
        training = champion_run(tracker, champion)
        if training is None:
            return (
                f"the run of {name} of {champion.category} was deleted, and its version has no "
                "metrics to compare with; promote with --force"
            )
        if validation_part(training) != validation_part(record):
            sets = [r.tags.get("vqlab.validation", "no test image") for r in (record, training)]
            return (
                f"its test images differ from those of {name}: its validation set consists of "
                f"{sets[0]}, the champion's of {sets[1]}; train one of them again with the "
                "data.validation and data.seed of the other"
            )
    fingerprint = record.tags["vqlab.data_fingerprint"][:12]
    return (
        f"{name} was never measured on the same data ({fingerprint}); evaluate it there (vqlab "
        f"evaluate --model champion --category {champion.category} --data FOLDER) and promote again"
    )


def _reason(
    category: str, champion: Version | None, comparison: MetricComparison, forced: bool
) -> str:
    """Return the sentence on a new champion."""
    replaced = ", the first"
    if champion is not None:
        old = comparison.champion_value
        value = "not measured on these data" if old is None else f"{old:.4f}"
        replaced = f", replaces version {champion.version} ({value})"
    by_force = " by force" if forced else ""
    metric = f"{comparison.metric} {comparison.value:.4f}"
    return f"champion of {category}{by_force}: {metric}{replaced}."


def _registered(tracker: Tracker, record: RunRecord) -> Version:
    """Return the run's registered version; register one if there is none."""
    for version in tracker.registry.versions(record.categories):
        if version.run_id == record.run_id:
            tracker.registry.checkpoint(version)
            return version
    return tracker.registry.register(record.run_id, CHECKPOINT, record.categories)


def _provenance(record: RunRecord, comparison: MetricComparison) -> dict[str, str]:
    """Return the tags of a promoted version."""
    user = "unknown"
    with contextlib.suppress(Exception):
        user = getpass.getuser()
    return {
        "vqlab.promoted_from": record.run_id,
        "vqlab.metric": comparison.metric,
        "vqlab.metric_value": repr(comparison.value),
        "vqlab.champion_value": repr(comparison.champion_value),
        "vqlab.data": record.tags["vqlab.data_fingerprint"],
        **run_summary(record),
        "vqlab.git_commit": record.tags.get("mlflow.source.git.commit", "unknown"),
        "vqlab.promoted_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "vqlab.promoted_by": user,
    }
