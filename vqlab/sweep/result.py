"""The result of a sweep: test metrics of the winner and of requested trials, recipe and report."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from optuna.trial import FrozenTrial, TrialState

from vqlab.checkpoint import load_checkpoint
from vqlab.config import digest
from vqlab.data import read_image, write_png
from vqlab.evaluation import Thresholds
from vqlab.model import Model
from vqlab.plots import attempt, in_two_rows, loss_curves, results_folder
from vqlab.run import LOSS, SAVED_TAG, audit_warned, example_pictures, resolve, test_model
from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import SweepResult, TrialKey, TrialOnTest, TrialRow
from vqlab.sweep.report import ReportContext, write_report
from vqlab.sweep.study.record import key_of, record_of, row
from vqlab.sweep.sync.mirror import Mirror, deleted_trials, trial_runs
from vqlab.sweep.sync.views import OBJECTIVE, PICTURE, StudyPages
from vqlab.sweep.trial.retrain import restore_checkpoint
from vqlab.tracking import NOTE, RunRecord
from vqlab.types import UserError

TESTED = "vqlab.tested"
"""Tag of a run whose test evaluation is complete."""
REQUESTED = "vqlab.tested_on_request"
"""Tag of a run that was tested on request."""
NOTES = "vqlab.notes"
"""Tag of a tested run: the notes of its test, one line each."""
STUDY = "study"
"""Folder of a study's pictures among the artifacts of its run."""
_PICTURES = 4
"""Number of test pictures in the report."""


def finish(
    context: SweepContext,
    mirror: Mirror,
    target: int,
    pages: StudyPages,
    results: Path,
    started: float,
    requested: Sequence[TrialKey] = (),
) -> SweepResult:
    """Return the result of a sweep; compute what is missing (test metrics, recipe, report).

    requested: complete trials to score on test in addition to the winner. Raises UserError if no
    trial is complete.
    """
    tracker, name = context.tracker, context.studies.name
    context.rule.deleted = deleted_trials(context)
    best = _winner(context)
    best_row = row(best)
    record, pictures = _test_winner(context, mirror, best, results)
    _test_others(context, mirror, requested)
    tested = _tested(context, best_row.key)
    recipe = _save_recipe(context, best_row)
    shows = digest([recipe.read_text("utf-8"), [str(t.key) for t in tested], pages.table])
    if tracker.find(context.parent.id).tags.get("vqlab.shows") != shows:
        _show_study(context, best_row, tested, recipe, pages)
        context.parent.set_tags({"vqlab.shows": shows})
    tracker.set_status(context.parent.id, "FINISHED", {})
    return SweepResult(
        study=name,
        link=pages.table_link,
        charts_link=pages.charts_link,
        objective=context.comparison.objective,
        target=target,
        best=best_row,
        reason=context.rule.reason(),
        best_link=tracker.link(record.run_id),
        validation=dict(record_of(best).validation),
        test=_of(record, "test/"),
        baseline=_of(record, "test_mean_image/"),
        notes=(*record.tags.get(NOTES, "").splitlines(), *_without(context.rule.deleted)),
        warned=tuple(audit_warned(record.tags, context.splits.categories)),
        trials=tuple(row(trial) for trial in context.studies.trials()),
        tested=tested,
        recipes=_best_of_each(context),
        comparisons=context.rule.recipe_comparisons(),
        recipe=recipe,
        pictures=pictures if len(context.splits.test) and pictures.is_dir() else None,
        page=context.parent.artifact(f"{STUDY}/study.html"),
        parent_id=context.parent.id,
        seconds=time.monotonic() - started,
        saved=_seconds_saved(context),
        thresholds=_thresholds_of(record),
    )


def _test_winner(
    context: SweepContext, mirror: Mirror, best: FrozenTrial, results: Path
) -> tuple[RunRecord, Path]:
    """Return the run of the winner, tested if it was not before, and the folder of its pictures."""
    record = context.tracker.find(str(record_of(best).run_id))
    categories = context.splits.categories
    if len(context.splits.test):
        finished = record.tags.get(TESTED) == "true"
    else:
        finished = NOTES in record.tags
    if finished:
        return record, results_folder(results, categories[0]) if len(categories) == 1 else results
    chosen_by = {"vqlab.chosen_by": context.comparison.objective}
    # Its checkpoint is missing if a better trial was deleted later.
    note = restore_checkpoint(context, mirror, best, record) if context.rule.deleted else ""
    pictures = _test_once(context, record, results, chosen_by, [note] if note else [])
    return context.tracker.find(record.run_id), pictures


def _winner(context: SweepContext) -> FrozenTrial:
    name, best = context.studies.name, context.rule.winner()
    if best is not None:
        return best
    if context.rule.deleted:
        raise UserError(
            f"the runs of all complete trials of study {name} were deleted; restore them in the "
            "MLflow UI, or increase the number of trials."
        )
    reasons = sorted({row(trial).reason for trial in context.studies.trials()} - {""})
    raise UserError(
        f"study {name} has no complete trial ({'; '.join(reasons) or 'no time'}); increase the "
        "number of trials, or change the search space."
    )


def _without(deleted: Iterable[TrialKey]) -> list[str]:
    keys = ", ".join(map(str, sorted(deleted)))
    note = (
        f"Excluded, because their runs were deleted: trial {keys} (restore them in the MLflow UI)."
    )
    return [note] if keys else []


def _thresholds_of(record: RunRecord) -> Thresholds | None:
    """Return the thresholds in a run's checkpoint; None if it was deleted."""
    try:
        _, meta = load_checkpoint(record.checkpoint())
    except UserError:
        return None
    return Thresholds.from_json(meta["thresholds"])


def _seconds_saved(context: SweepContext) -> float:
    return float(sum(record_of(trial).seconds_saved for trial in context.studies.trials()))


def _best_of_each(context: SweepContext) -> dict[str, TrialRow | None]:
    best = {name: context.rule.winner(name) for name in context.comparison.plans if name}
    return {name: row(trial) if trial else None for name, trial in best.items()}


def _test_others(context: SweepContext, mirror: Mirror, requested: Sequence[TrialKey]) -> None:
    """Score requested trials that were not scored before, each in its own run. Their pictures are
    artifacts of that run: the results folder shows the winner."""
    for key in sorted(set(requested)):
        trial = context.studies.find(key)
        if trial is None or trial.state != TrialState.COMPLETE:
            continue
        if key in context.rule.deleted:
            raise UserError(
                f"the run of trial {key} was deleted, so it cannot be scored on test; restore "
                "it in the MLflow UI, or omit --test."
            )
        record = context.tracker.find(str(record_of(trial).run_id))
        if record.tags.get(TESTED) == "true":
            continue
        note = restore_checkpoint(context, mirror, trial, record)
        with tempfile.TemporaryDirectory() as folder:
            tags = {REQUESTED: "true"}
            _test_once(context, record, Path(folder), tags, [note] if note else [])


def _tested(context: SweepContext, best: TrialKey) -> tuple[TrialOnTest, ...]:
    """Return the trials that were scored on test. best: the winner."""
    trials = {record_of(trial).run_id: trial for trial in context.studies.trials()}
    tags = {"vqlab.kind": "trial", "vqlab.study": context.studies.name, TESTED: "true"}
    tested = []
    for record in context.tracker.runs(tags=tags):
        trial = trials.get(record.run_id)
        if trial is None:  # of a deleted study of the same name
            continue
        other: Literal["earlier winner", "on request"] = "earlier winner"
        if REQUESTED in record.tags:
            other = "on request"
        tested.append(
            TrialOnTest(
                key=key_of(trial),
                why="winner" if key_of(trial) == best else other,
                run_id=record.run_id,
                validation=dict(record_of(trial).validation),
                test=_of(record, "test/"),
                notes=tuple(record.tags.get(NOTES, "").splitlines()),
            )
        )
    return tuple(sorted(tested, key=lambda each: each.key))


def _test_once(
    context: SweepContext,
    record: RunRecord,
    results: Path,
    tags: Mapping[str, str],
    notes: Sequence[str] = (),
) -> Path:
    """Score the test set with a trial's checkpoint, in the trial's own run; without test images,
    only add a note to the run."""
    model = Model.load(record.checkpoint())
    config = resolve(model.meta["config"])
    run = context.tracker.amend(record.run_id)
    epochs = context.tracker.history(record.run_id, ("train/", "codebook/"))
    if epochs:
        with attempt(LOSS):
            run.log_figure(loss_curves(epochs), LOSS)
    splits = context.splits_for(config)
    if not len(splits.test):
        run.set_tags({**tags, NOTES: "\n".join([*splits.notes, *notes])})
        return results_folder(results, splits.categories[0])
    report, _, pictures = test_model(model, config, splits, run, results)
    run.set_tags({**tags, TESTED: "true", NOTES: "\n".join([*report.notes, *notes])})
    return pictures


def recipe_text(context: SweepContext, best: TrialRow) -> str:
    """Return the winner's settings as a recipe for `vqlab train`, with a header on their origin."""
    studies = context.studies
    header = (
        f"# Best of {studies.n_done()} trials of study {studies.name}: trial {best.key},\n"
        f"# {context.comparison.objective} {best.value:.6g}, run {best.run_id}.\n"
        f"# vqlab train mlruns/recipes/{studies.name}.yaml\n"
    )
    tree = context.comparison[best.recipe].tree_of(best.params)
    return header + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _save_recipe(context: SweepContext, best: TrialRow) -> Path:
    path = context.tracker.root / "recipes" / f"{context.studies.name}.yaml"
    text = recipe_text(context, best)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    return path


def _show_study(
    context: SweepContext,
    best: TrialRow,
    tested: Sequence[TrialOnTest],
    recipe: Path,
    pages: StudyPages,
) -> None:
    """Log recipe, report and description to the study's own run; save the MLflow UI's views."""
    parent = context.parent
    parent.log_artifact(recipe)
    with tempfile.TemporaryDirectory() as folder:
        pictures = _best_pictures(context, best)
        if pictures:
            (Path(folder) / Path(PICTURE).name).write_bytes(next(iter(pictures.values())))
        with attempt("the report of the study"):
            report = _report_context(context, best, tested, pages, pictures)
            objectives = context.comparison.objectives
            write_report(context.studies, objectives, Path(folder), report)
        parent.log_artifacts(Path(folder), STUDY)
    _show_views(context, pages)
    test = next((trial.test for trial in tested if trial.key == best.key), {})
    description = pages.described(
        best, test, context.rule.reason(), parent.id if pictures else None
    )
    pages.pages.describe(description)
    parent.set_tags(
        {
            "vqlab.best_trial": str(best.key),
            "vqlab.best_run": str(best.run_id),
            SAVED_TAG: f"{_seconds_saved(context):.2f}",
            NOTE: description,
        }
    )


def _best_pictures(context: SweepContext, best: TrialRow) -> dict[str, bytes]:
    """Return the first test image of each of the first defect types in panels, as PNG files by
    title, without deleted ones."""
    pictures = {}
    run = context.tracker.find(str(best.run_id))
    with tempfile.TemporaryDirectory() as folder, attempt(PICTURE), suppress(UserError):
        for title, file in list(example_pictures(context.splits).items())[:_PICTURES]:
            path = Path(folder) / "picture.png"
            write_png(in_two_rows(read_image(run.artifact(f"results/{file}"))), path)
            pictures[title] = path.read_bytes()
    return pictures


def _report_context(
    context: SweepContext,
    best: TrialRow,
    tested: Sequence[TrialOnTest],
    pages: StudyPages,
    pictures: Mapping[str, bytes],
) -> ReportContext:
    winner = context.tracker.find(str(best.run_id))
    return ReportContext(
        dataset=pages.dataset,
        tested={trial.key: trial.test for trial in tested},
        purposes={trial.key: trial.why for trial in tested},
        baseline=_of(winner, "test_mean_image/"),
        not_clearly_better=context.rule.not_clearly_better(),
        winner=best.key,
        recipes=context.rule.recipe_comparisons(),
        reason=context.rule.reason(),
        differences=context.rule.differences(),
        notes=winner.tags.get(NOTES, "").splitlines(),
        run_link=lambda run_id: pages.pages.link(pages.pages.run(run_id)),
        links=pages.all_links,
        pictures=pictures,
    )


def _show_views(context: SweepContext, pages: StudyPages) -> None:
    """Save the study's views for the metrics that its trials logged; runs of an older vqlab get the
    metric by which the views are sorted."""
    logged: set[str] = set()
    for record in trial_runs(context):
        logged |= record.metrics.keys()
        value = record.tags.get("vqlab.value")
        if value is not None and OBJECTIVE not in record.metrics:
            context.tracker.amend(record.run_id).log_metrics({OBJECTIVE: float(value)})
    pages.save(logged)


def _of(record: RunRecord, prefix: str) -> dict[str, Any]:
    return {key: value for key, value in record.metrics.items() if key.startswith(prefix)}
