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
    deciding_metric,
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

_LISTED = 8
"""Candidates that an error lists."""


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
        value = record.metrics.get(metric or FIRST[0])
        reason = (
            f"{record.name} is already the champion of {category} (version {champion.version})."
        )
        return Promotion(champion.version, False, True, reason, record.run_id, value, None)
    require_test(record, without_test)
    if not without_test:
        record = _measured(tracker, record, data)
    values = champion_values(tracker, champion, record) if champion else {}
    metric = metric or (WITHOUT_TEST if without_test else deciding_metric(record, values))
    compared = MetricComparison(metric, value_of(record, metric), values.get(metric), min_delta)
    refusal = _refusal(tracker, record, champion, compared, without_test)
    if refusal and not force:
        reason = f"{record.name} was not promoted: {refusal}."
        return Promotion(
            None, False, False, reason, record.run_id, compared.value, compared.champion_value
        )
    reproduced = reproduce(record, data)
    reason = _reason(category, champion, compared, forced=bool(refusal))
    if without_test:
        reason = f"{reason.removesuffix('.')}; no real test image was used."
    version = _registered(tracker, record)
    tags = _provenance(record, compared) | {"vqlab.reason": reason, "vqlab.reproduced": reproduced}
    tracker.registry.set_tags(version, tags)
    tracker.registry.set_champion(version, champion)
    return Promotion(
        version.version, True, True, reason, record.run_id, compared.value, compared.champion_value
    )


def _candidate(tracker: Tracker, category: str, ref: str | None, metric: str) -> RunRecord:
    """Return the run to promote. Raises UserError if it must not be promoted."""
    record = tracker.find(ref or _best_run(tracker, category, metric))
    if not matches_categories(category, record.categories):
        trained = category_text(record.categories) or "no category"
        raise UserError(
            f"run {record.short} was trained on {trained}, not {category}; promote it there."
        )
    if record.status != "FINISHED" or record.tags.get("vqlab.kind") not in ("train", "trial"):
        raise UserError(
            f"run {record.short} must be a finished training run to be promoted; got a "
            f"{record.tags.get('vqlab.kind', 'run')} with status {record.status}."
        )
    objectives = [record.tags.get(key, "") for key in ("vqlab.objective", "vqlab.chosen_by")]
    on_test = record.tags.get("vqlab.selected_on") == "test"
    if on_test or any(objective.startswith("test/") for objective in objectives):
        what = "epoch was" if on_test else "settings were"
        raise UserError(
            f"run {record.short} cannot be promoted: its {what} selected on the test set, so its "
            "test metrics are biased; promote a run selected on validation."
        )
    return record


def _best_run(tracker: Tracker, category: str, metric: str) -> str:
    """Return the ID of the best run of the category's latest study."""
    studies = [
        s for s in tracker.runs(kinds=["study"]) if matches_categories(category, s.categories)
    ]
    studies = [study for study in studies if "vqlab.best_run" in study.tags]
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
    """Return the error that lists what could be promoted if no study has a best run."""
    runs = [r for r in tracker.runs(kinds=["train", "trial"]) if r.status == "FINISHED"]
    # A trial without test metrics most likely has no checkpoint any more.
    runs = [r for r in runs if r.tags["vqlab.kind"] == "train" or _is_tested(r)]
    candidates = [r for r in runs if matches_categories(category, r.categories)]
    if not candidates:
        hint = did_you_mean(category, {r.tags.get("vqlab.category", "") for r in runs})
        hint = hint or f"sweep it first (make sweep CLASS={category})."
        return f"category {category} has no finished study and no run to promote; {hint}"
    ascending = less_is_better(metric)
    worst = math.inf if ascending else -math.inf
    candidates.sort(key=lambda r: r.metrics.get(metric, worst), reverse=not ascending)
    lines = [
        f"category {category} has no finished study with a best run; choose one of its "
        f"runs with --run ID (make promote CLASS={category} RUN=ID):"
    ]
    for run in candidates[:_LISTED]:
        value = f"{run.metrics[metric]:.4f}" if metric in run.metrics else "not measured yet"
        lines.append(f"  {run.run_id[:12]}  {metric} {value}  {run.name}")
    if len(candidates) > _LISTED:
        more = len(candidates) - _LISTED
        lines.append(f"  and {more} more: vqlab leaderboard --category {category}")
    return "\n".join(lines)


def _is_tested(record: RunRecord) -> bool:
    return any(key.startswith("test/") for key in record.metrics)


def _measured(tracker: Tracker, record: RunRecord, data: Path | None) -> RunRecord:
    """Return the run with its test metrics; evaluate it on test if it has none."""
    if _is_tested(record):
        return record
    model = Model.load(record.checkpoint())
    config = model_config(model, data)
    splits = same_data(record, config)
    test_model(model, config, splits, tracker.amend(record.run_id), Path("results"))
    return tracker.find(record.run_id)


def _refusal(
    tracker: Tracker,
    record: RunRecord,
    champion: Version | None,
    compared: MetricComparison,
    without_test: bool,
) -> str:
    """Return why the run must not become champion; empty if it may."""
    if champion is None or compared.sufficient:
        return ""
    if compared.champion_value is not None:
        return f"its {compared.metric} {compared.describe(champion.version)}"
    who = f"the champion (version {champion.version})"
    if compared.metric.startswith("validation/"):
        return (
            f"{who} has no {compared.metric} on the same validation images; train both on the same "
            f"data with the same settings of {', '.join(VALIDATION)} (section data), or promote "
            "with --force"
        )
    if not without_test:
        trained = champion_run(tracker, champion)
        if trained is None:
            return (
                f"the run of {who} of {champion.category} was deleted, and its version has no "
                "metrics to compare with; promote with --force"
            )
        if validation_part(trained) != validation_part(record):
            made = [r.tags.get("vqlab.validation", "no test image") for r in (record, trained)]
            return (
                f"its test images differ from those of {who}: its validation set is made of "
                f"{made[0]}, the champion's of {made[1]}; train one of them again with the "
                "data.validation and data.seed of the other"
            )
    fingerprint = record.tags["vqlab.data_fingerprint"][:12]
    return (
        f"{who} was never measured on the same data ({fingerprint}); evaluate it there (vqlab "
        f"evaluate --model champion --category {champion.category} --data FOLDER) and promote again"
    )


def _reason(
    category: str, champion: Version | None, compared: MetricComparison, forced: bool
) -> str:
    """Return the sentence on a new champion."""
    replaced = ", the first"
    if champion is not None:
        old = compared.champion_value
        value = "not measured on these data" if old is None else f"{old:.4f}"
        replaced = f", replaces version {champion.version} ({value})"
    by = " by force" if forced else ""
    return f"champion of {category}{by}: {compared.metric} {compared.value:.4f}{replaced}."


def _registered(tracker: Tracker, record: RunRecord) -> Version:
    """Return the run's registered version; register one if there is none."""
    for version in tracker.registry.versions(record.categories):
        if version.run_id == record.run_id:
            tracker.registry.checkpoint(version)
            return version
    return tracker.registry.register(record.run_id, CHECKPOINT, record.categories)


def _provenance(record: RunRecord, compared: MetricComparison) -> dict[str, str]:
    """Return the tags of a promoted version."""
    user = "unknown"
    with contextlib.suppress(Exception):
        user = getpass.getuser()
    return {
        "vqlab.promoted_from": record.run_id,
        "vqlab.metric": compared.metric,
        "vqlab.metric_value": repr(compared.value),
        "vqlab.champion_value": repr(compared.champion_value),
        "vqlab.data": record.tags["vqlab.data_fingerprint"],
        **run_summary(record),
        "vqlab.git_commit": record.tags.get("mlflow.source.git.commit", "unknown"),
        "vqlab.promoted_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "vqlab.promoted_by": user,
    }
