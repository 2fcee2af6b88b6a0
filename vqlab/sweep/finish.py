"""What a study came to: the winner on test, once; its settings as a recipe; how it was found."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from vqlab.config import digest
from vqlab.model import Model
from vqlab.plots import loss_curves
from vqlab.run import LOSS, resolve, test_model, warned_of
from vqlab.sweep.events import SweepResult, TrialRow
from vqlab.sweep.pictures import draw_study
from vqlab.sweep.project import row
from vqlab.sweep.reuse import SAVED
from vqlab.sweep.study import best_trial, settled
from vqlab.sweep.trial import VALIDATION, Objective
from vqlab.tracking import RunRecord
from vqlab.types import UserError

TESTED = "vqlab.tested"
"""Tag of a run whose test metrics and pictures are all there."""
NOTES = "vqlab.notes"
"""Tag of such a run: the notes of its test, a line each."""
STUDY = "study"
"""Folder of a study's pictures among the artifacts of its run."""


def finish(
    objective: Objective, target: int, link: str, results: Path, started: float
) -> SweepResult:
    """The result of a study; what is missing of it (test, recipe) is made.

    Raises UserError where no trial is complete.
    """
    study, tracker = objective.study, objective.tracker
    best = best_trial(study)
    if best is None:
        reasons = sorted({row(t).reason for t in study.get_trials(deepcopy=False)} - {""})
        raise UserError(
            f"study {study.study_name} has no complete trial ({'; '.join(reasons) or 'no time'}); "
            "give it more trials, or another space."
        )
    shown = row(best)
    assert shown.run_id is not None
    record = tracker.find(shown.run_id)
    categories = objective.splits.categories
    pictures = results / categories[0] if len(categories) == 1 else results
    if record.tags.get(TESTED) != "true":
        pictures = _test_once(objective, record, results)
        record = tracker.find(shown.run_id)
    recipe = tracker.root / "recipes" / f"{study.study_name}.yaml"
    text = recipe_text(objective, shown)
    if not recipe.exists() or recipe.read_text(encoding="utf-8") != text:
        _write(recipe, text)
    shown_before = tracker.find(objective.parent.id).tags.get("vqlab.recipe_sha256")
    if shown_before != digest(text):
        _show_study(objective, shown, record, recipe, link)
        objective.parent.set_tags({"vqlab.recipe_sha256": digest(text)})
    tracker.settle(objective.parent.id, "FINISHED", {})
    return SweepResult(
        study=study.study_name,
        link=link,
        objective=objective.contest.objective,
        target=target,
        best=shown,
        best_link=tracker.link(shown.run_id),
        validation=dict(best.user_attrs.get(VALIDATION, {})),
        test=_of(record, "test/"),
        baseline=_of(record, "test_mean_image/"),
        notes=tuple(record.tags.get(NOTES, "").splitlines()),
        warned=tuple(warned_of(record.tags, categories)),
        trials=tuple(row(t) for t in study.get_trials(deepcopy=False)),
        recipes=_best_of_each(objective),
        recipe=recipe,
        pictures=pictures if pictures.is_dir() else None,
        page=objective.parent.artifact(f"{STUDY}/study.html"),
        parent_id=objective.parent.id,
        seconds=time.monotonic() - started,
        saved=sum(t.user_attrs.get(SAVED, 0.0) for t in study.get_trials(deepcopy=False)),
    )


def _best_of_each(objective: Objective) -> dict[str, TrialRow | None]:
    found = {name: best_trial(objective.study, name) for name in objective.contest.plans if name}
    return {name: row(trial) if trial else None for name, trial in found.items()}


def _test_once(objective: Objective, record: RunRecord, results: Path) -> Path:
    """Score the test set with the winner's checkpoint, in the winner's own run."""
    model = Model.load(record.checkpoint())
    config = resolve(model.meta["config"])
    run = objective.tracker.amend(record.run_id)
    report, _, pictures = test_model(model, config, objective.splits_for(config), run, results)
    epochs = objective.tracker.history(record.run_id, ("train/", "codebook/"))
    if epochs:
        run.log_figure(loss_curves(epochs), LOSS)
    tags = {TESTED: "true", "vqlab.chosen_by": objective.contest.objective}
    run.set_tags(tags | {NOTES: "\n".join(report.notes)})
    return pictures


def recipe_text(objective: Objective, best: TrialRow) -> str:
    """The winner's settings as a recipe that `train` accepts, with a header saying whence."""
    study = objective.study
    name, plan, settings = objective.contest.of(best.params)
    of = f" ({name})" if name else ""
    header = (
        f"# Best of {settled(study)} trials of study {study.study_name}: trial {best.number}{of},\n"
        f"# {objective.contest.objective} {best.value:.6g}, run {best.run_id}.\n"
        f"# vqlab train mlruns/recipes/{study.study_name}.yaml\n"
    )
    tree = plan.tree_of(settings)
    return header + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _show_study(
    objective: Objective, best: TrialRow, record: RunRecord, recipe: Path, link: str
) -> None:
    """Recipe, pictures, table and a summary on the study's own run."""
    study, parent = objective.study, objective.parent
    parent.log_artifact(recipe)
    with tempfile.TemporaryDirectory() as folder:
        tested = {best.number: _of(record, "test/")}
        draw_study(study, objective.contest.objectives, Path(folder), tested)
        parent.log_artifacts(Path(folder), STUDY)
    settings = "\n".join(f"- `{key}`: {value}" for key, value in best.params.items())
    parent.set_tags(
        {
            "vqlab.best_trial": str(best.number),
            "vqlab.best_run": str(best.run_id),
            "mlflow.note.content": f"[All trials]({link})\n\nBest: trial {best.number}, "
            f"{objective.contest.objective} {best.value:.4f}\n\n{settings}",
        }
    )


def _of(record: RunRecord, prefix: str) -> dict[str, Any]:
    return {key: value for key, value in record.metrics.items() if key.startswith(prefix)}
