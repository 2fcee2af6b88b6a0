"""Promotion: a checkpoint becomes its category's champion if it is better on the same test data.

`python -m vqlab.promote` scores images in a fresh process: a checkpoint must be all it takes.
"""

from __future__ import annotations

import contextlib
import csv
import getpass
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from vqlab.config import merge, nest
from vqlab.data import Splits, find_root, load_dataset
from vqlab.errors import UserError, did_you_mean
from vqlab.metrics import less_is_better
from vqlab.model import Model
from vqlab.promotion_metrics import (
    FIRST,
    NO_IMAGES,
    VALIDATION,
    WITHOUT_TEST,
    champion_run,
    in_both,
    memory,
    require_metric,
    require_test,
    taken_by,
    value_of,
    values_of,
)
from vqlab.run import RunConfig, resolve, test_model
from vqlab.text import category_text, folder_name, restored
from vqlab.tracking import CHECKPOINT, RunRecord, Tracker, Version, meant_by

_LISTED = 8
"""Candidates that an error lists."""
_LOOK = 4
"""Test images scored again before a checkpoint becomes champion."""
_SAME = 1e-5
"""Relative difference that another device or number of threads may make in a score."""


@dataclass(frozen=True)
class Promotion:
    """What became of a promotion."""

    version: int | None
    """The registered version; None where none was registered."""
    promoted: bool
    """The champion changed."""
    is_champion: bool
    """The run asked about is the champion now."""
    reason: str
    """One sentence."""
    run_id: str
    value: float | None
    champion_value: float | None
    """The earlier champion's, on the same data; None where there is none."""


def promote(
    tracker: Tracker,
    category: str,
    *,
    ref: str | None = None,
    metric: str | None = None,
    min_delta: float = 0.0,
    force: bool = False,
    without_test: bool = False,
    results: Path = Path("results"),
    data: Path | None = None,
) -> Promotion:
    """Make a run's checkpoint the champion of `category` if it is better by more than `min_delta`.

    ref: a run (id, beginning of it, name); none: the best of the latest study. Compared are values
    of `metric` on data of the same fingerprint, of which validation took the same; none: the first
    of image AUROC, pixel AUROC and AUPRO on test that both have. `force` leaves the comparison out,
    not the checks. `without_test` accepts a run whose data have no test images and compares a
    `validation/…` metric, measured on synthetic anomalies. The champion's values are those that its
    version remembers: its run may be deleted. data: where the images are now, if they were moved.
    Whether it is refused stands in the
    result; raises UserError where nothing can be compared.
    """
    if metric is not None:
        require_metric(metric, without_test)
    record = _candidate(tracker, category, ref, metric or FIRST[0])
    present = tracker.registry.at(record.categories)
    if present is not None and present.run_id == record.run_id:
        value = record.metrics.get(metric or FIRST[0])
        reason = f"{record.name} is the champion of {category} already (version {present.version})."
        return Promotion(present.version, False, True, reason, record.run_id, value, None)
    require_test(record, without_test)
    if not without_test:
        record = _measured(tracker, record, results, data)
    values = values_of(tracker, present, record) if present else {}
    metric = metric or (WITHOUT_TEST if without_test else in_both(record, values))
    value = value_of(record, metric)
    old = values.get(metric)
    sign = -1 if less_is_better(metric) else 1
    refusal = _refusal(record, metric, value, old, present, sign, min_delta)
    if refusal and old is None and present is not None and not without_test:
        refusal = _never_comparable(tracker, record, present) or refusal
    if refusal and not force:
        return Promotion(None, False, False, refusal, record.run_id, value, old)
    reproduced = _reproduce(record, data)
    reason = _reason(category, metric, value, old, present, forced=bool(refusal))
    if without_test:
        reason = f"{reason.removesuffix('.')}; no real test image was looked at."
    version = _version_of(tracker, record)
    tracker.registry.set_tags(
        version,
        {
            "vqlab.promoted_from": record.run_id,
            "vqlab.metric": metric,
            "vqlab.metric_value": repr(value),
            "vqlab.champion_value": repr(old),
            "vqlab.data": record.tags["vqlab.data_fingerprint"],
            **memory(record),
            "vqlab.git_commit": record.tags.get("mlflow.source.git.commit", "unknown"),
            "vqlab.reason": reason,
            "vqlab.reproduced": reproduced,
            "vqlab.promoted_at": _now(),
            "vqlab.promoted_by": _user(),
        },
    )
    tracker.registry.crown(version, present)
    return Promotion(version.version, True, True, reason, record.run_id, value, old)


def _candidate(tracker: Tracker, category: str, ref: str | None, metric: str) -> RunRecord:
    """The run to promote, if it may be one. Raises UserError saying why it may not."""
    if ref is None:
        studies = [s for s in tracker.runs(kinds=["study"]) if meant_by(category, s.categories)]
        best = [s.tags["vqlab.best_run"] for s in studies if "vqlab.best_run" in s.tags]
        if not best:
            raise UserError(_candidates(tracker, category, metric))
        ref = best[0]
        if not any(run.run_id == ref for run in tracker.runs(kinds=["trial"])):
            raise UserError(
                f"the run of the best trial of study {studies[0].tags['vqlab.study']} was deleted; "
                "run the sweep again, which then takes the best of the others, or restore it in "
                "the MLflow UI, or choose a run with --run ID."
            )
    record = tracker.find(ref)
    if not meant_by(category, record.categories):
        trained = category_text(record.categories) or "no category"
        raise UserError(f"run {record.short} is about {trained}, not {category}; promote it there.")
    if record.status != "FINISHED" or record.tags.get("vqlab.kind") not in ("train", "trial"):
        raise UserError(
            f"run {record.short} must be a finished training to be promoted; it is a "
            f"{record.tags.get('vqlab.kind', 'run')} that is {record.status}."
        )
    chosen = [record.tags.get(key, "") for key in ("vqlab.objective", "vqlab.chosen_by")]
    on_test = record.tags.get("vqlab.selected_on") == "test"
    if on_test or any(objective.startswith("test/") for objective in chosen):
        what = "epoch" if on_test else "settings"
        raise UserError(
            f"run {record.short} had its {what} chosen on the test set, so its test figures mean "
            "nothing; promote one that was chosen on validation."
        )
    return record


def _candidates(tracker: Tracker, category: str, metric: str) -> str:
    """Return the sentence that lists what could be promoted where no study names its best run."""
    runs = [r for r in tracker.runs(kinds=["train", "trial"]) if r.status == "FINISHED"]
    # A trial that was never tested has most likely no checkpoint any more.
    tested = [r for r in runs if any(key.startswith("test/") for key in r.metrics)]
    runs = [r for r in runs if r.tags["vqlab.kind"] == "train" or r in tested]
    mine = [r for r in runs if meant_by(category, r.categories)]
    if not mine:
        hint = did_you_mean(category, {r.tags.get("vqlab.category", "") for r in runs})
        hint = hint or f"sweep it first (make sweep CLASS={category})."
        return f"category {category} has no finished study and no run to promote; {hint}"
    least = less_is_better(metric)
    worst = math.inf if least else -math.inf
    mine.sort(key=lambda r: r.metrics.get(metric, worst), reverse=not least)
    lines = [
        f"category {category} has no finished study to take the best run of; choose one of its "
        f"runs with --run ID (make promote CLASS={category} RUN=ID):"
    ]
    for run in mine[:_LISTED]:
        value = f"{run.metrics[metric]:.4f}" if metric in run.metrics else "not measured yet"
        lines.append(f"  {run.run_id[:12]}  {metric} {value}  {run.name}")
    if len(mine) > _LISTED:
        lines.append(f"  and {len(mine) - _LISTED} more: vqlab leaderboard --category {category}")
    return "\n".join(lines)


def _measured(tracker: Tracker, record: RunRecord, results: Path, data: Path | None) -> RunRecord:
    """The run with its test metrics: those it has, else measured now and recorded in it."""
    if not any(key.startswith("test/") for key in record.metrics):
        model = Model.load(record.checkpoint())
        config = _config(model, data)
        splits = _same_data(record, config)
        test_model(model, config, splits, tracker.amend(record.run_id), results)
        record = tracker.find(record.run_id)
    return record


def _config(model: Model, data: Path | None) -> RunConfig:
    """The settings of a model, its images in `data` if they were moved there."""
    return resolve(merge(model.meta["config"], nest("data.root", str(data)) if data else {}))


def _same_data(record: RunRecord, config: RunConfig) -> Splits:
    """The data that a run was trained on. Raises UserError where they are others now."""
    splits = load_dataset(config.data)
    data = record.tags["vqlab.data_fingerprint"]
    if splits.fingerprint != data:
        raise UserError(
            f"run {record.short} was trained on other data ({data[:12]}) than {splits.root} "
            f"holds now ({splits.fingerprint[:12]}); bring those back, say where they are now "
            "with --data, or train again."
        )
    return splits


def _never_comparable(tracker: Tracker, record: RunRecord, present: Version) -> str:
    """Why the champion can not be measured on the run's test images; empty where it can."""
    champion = champion_run(tracker, present)
    if champion is None:
        return (
            f"{record.name} was not promoted: the run of the champion (version {present.version} "
            f"of {present.category}) was deleted, and its version remembers no "
            "figures to compare with; promote by --force."
        )
    if taken_by(champion) == taken_by(record):
        return ""
    made = [r.tags.get("vqlab.validation", "no test image") for r in (record, champion)]
    return (
        f"{record.name} was not promoted: its test images cannot be those of the champion (version "
        f"{present.version}): its validation is made of {made[0]}, the champion's of {made[1]}; "
        "train one of them again with data.validation and data.seed as the other's."
    )


def _refusal(
    record: RunRecord,
    metric: str,
    value: float,
    old: float | None,
    present: Version | None,
    sign: int,
    min_delta: float,
) -> str:
    """Why the run must not become champion; empty where it may."""
    if present is None:
        return ""
    name, data = record.name, record.tags["vqlab.data_fingerprint"]
    champion = f"the champion (version {present.version})"
    if old is None and metric.startswith("validation/"):
        return (
            f"{name} was not promoted: {champion} has no {metric} on the same validation images; "
            f"train both on the same data with the same settings of {', '.join(VALIDATION)} "
            "(section data), or promote with --force."
        )
    if old is None:
        return (
            f"{name} was not promoted: {champion} was never measured on the same data "
            f"({data[:12]}); score it there (vqlab evaluate --model champion --category "
            f"{present.category} --data FOLDER) and promote again."
        )
    if sign * (value - old) > min_delta:
        return ""
    than = f"{champion} has {old:.4f}"
    wanted = f", and {min_delta:g} better is asked for" if min_delta else ""
    word = "as good" if value == old else "not better" if sign * (value - old) > 0 else "worse"
    return f"{name} was not promoted: its {metric} is {value:.4f}, {word}: {than}{wanted}."


def _reason(
    category: str,
    metric: str,
    value: float,
    old: float | None,
    present: Version | None,
    forced: bool,
) -> str:
    instead = ", the first"
    if present is not None:
        had = "not measured on these data" if old is None else f"{old:.4f}"
        instead = f", instead of version {present.version} ({had})"
    by = " by force" if forced else ""
    return f"champion of {category}{by}: {metric} {value:.4f}{instead}."


def _version_of(tracker: Tracker, record: RunRecord) -> Version:
    """The run's registered version, the one it has or a new one."""
    for version in tracker.registry.versions(record.categories):
        if version.run_id == record.run_id:
            tracker.registry.checkpoint(version)
            return version
    return tracker.registry.register(record.run_id, CHECKPOINT, record.categories)


def _reproduce(record: RunRecord, data: Path | None) -> str:
    """Score some test images again in a fresh process; says how near the stored scores it came.

    Raises UserError where a score differs.
    """
    checkpoint = record.checkpoint()
    model = Model.load(checkpoint, "cpu")
    config = resolve(model.meta["config"])
    if record.tags.get("vqlab.test_fingerprint") == NO_IMAGES:
        stored = {path: model.score(path).score for path in _some_held_out(record, config)}
    else:
        stored = _stored_scores(record, config)
    task: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "images": [str(path) for path in stored],
        "device": record.tags.get("vqlab.device", "cpu").partition(":")[0],
        "threads": record.tags.get("vqlab.threads", ""),
    }
    scores = _score_in_a_fresh_process(task)
    exact = True
    for (path, wanted), score in zip(stored.items(), scores, strict=True):
        if not math.isclose(score, wanted, rel_tol=_SAME, abs_tol=1e-9):
            raise UserError(
                f"checkpoint {checkpoint} gives {path} the score {score!r} in a fresh process, "
                f"and {wanted!r} when it was tested; train it again."
            )
        exact &= score == wanted
    return f"{len(scores)} scores {'bit for bit' if exact else f'to {_SAME:g}'}"


def _score_in_a_fresh_process(task: Mapping[str, Any]) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-m", "vqlab.promote"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"checkpoint {task['checkpoint']} cannot be used in a fresh process: {last}"
        )
    scores: list[float] = json.loads(done.stdout)
    return scores


def _some_held_out(record: RunRecord, config: RunConfig) -> list[Path]:
    """Some held-out images, spread over the set."""
    samples = _same_data(record, config).held_out.samples
    return [sample.path for sample in samples[:: max(1, (len(samples) - 1) // (_LOOK - 1))]]


def _stored_scores(record: RunRecord, config: RunConfig) -> dict[Path, float]:
    """Some of the test images, spread over the set, with the scores that the run recorded."""
    roots = [find_root(config.data)[0], *([config.data.bad] if config.data.bad else [])]
    places = [place for root in roots for place in (root, *root.absolute().parents)]
    rows: list[Mapping[str, str]] = []
    for category in record.categories:
        table = _table(record, category)
        with table.open(newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    step = max(1, (len(rows) - 1) // (_LOOK - 1))
    stored = {}
    for row in rows[::step]:
        names = (row["file"], restored(row["file"]))
        files = [place / name for name in names for place in (*places, Path())]
        found = next((file for file in files if file.exists()), None)
        if found is None:
            raise UserError(
                f"test image {row['file']} is not in {roots[0]} any more, so the scores of run "
                f"{record.short} cannot be checked; bring it back."
            )
        stored[found] = float(row["score"])
    return stored


def _table(record: RunRecord, category: str) -> Path:
    """The run's scores of a category; vqlab 0.1 named the folder as the category."""
    try:
        return record.artifact(f"results/{folder_name(category)}/scores.csv")
    except UserError:
        return record.artifact(f"results/{category}/scores.csv")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _user() -> str:
    with contextlib.suppress(Exception):
        return getpass.getuser()
    return "unknown"


def _score_in_this_process(task: Mapping[str, Any]) -> list[float]:
    if str(task["threads"]).isdigit():
        torch.set_num_threads(int(task["threads"]))
    here = task["device"] == "cpu" or torch.cuda.is_available()
    model = Model.load(Path(task["checkpoint"]), task["device"] if here else "cpu")
    return [model.score(Path(image)).score for image in task["images"]]


if __name__ == "__main__":
    print(json.dumps(_score_in_this_process(json.load(sys.stdin))))
