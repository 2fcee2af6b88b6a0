"""Optuna's trials as MLflow shows them: state, value, reason; files of beaten trials go."""

from __future__ import annotations

import shutil
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.events import TrialRow
from vqlab.sweep.study.policy import (
    ASKED,
    RETRY_OF,
    RUN_ID,
    reason_of,
    recipe_of,
    state_tags,
    was_interrupted,
)
from vqlab.sweep.trial.objective import Objective
from vqlab.sweep.trial.reuse import REUSED
from vqlab.sweep.trial.selection import SCORING, THRESHOLDS
from vqlab.tracking import RunRecord

_STATUS: dict[TrialState, Literal["FINISHED", "KILLED", "FAILED"]] = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}


def row(trial: FrozenTrial) -> TrialRow:
    """A trial as a table shows it."""
    attrs = trial.user_attrs
    return TrialRow(
        number=trial.number,
        state=trial.state.name,
        value=trial.values[0] if trial.state == TrialState.COMPLETE else None,
        values=tuple(trial.values) if trial.state == TrialState.COMPLETE else (),
        params={**trial.params, **attrs.get(SCORING, {}), **attrs.get(THRESHOLDS, {})},
        run_id=attrs.get(RUN_ID),
        seconds=trial.duration.total_seconds() if trial.duration else None,
        reason=reason_of(trial.state, attrs),
        retry_of=attrs.get(RETRY_OF),
        recipe=recipe_of(trial),
        reused=str(attrs.get(REUSED, "")),
    )


def project(objective: Objective, trial: FrozenTrial) -> None:
    """Make the trial's run say what Optuna says of it."""
    run_id = trial.user_attrs.get(RUN_ID)
    run = objective.mine.get(run_id) if run_id else None
    tags = state_tags(trial.state, trial.values, trial.user_attrs)
    said = run and run.status == _STATUS[trial.state] and tags.items() <= run.tags.items()
    if run_id and not said:
        objective.tracker.settle(run_id, _STATUS[trial.state], tags, run.status if run else None)
    objective.agreed.add(trial.number)


def project_all(objective: Objective) -> None:
    """Correct every run of the study that disagrees with its trial, and tidy up.

    A run found RUNNING whose trial has ended belongs to a process that was killed.
    """
    trials = objective.study.get_trials(deepcopy=False)
    ended = {trial.number for trial in trials if trial.state.is_finished()}
    for record in trial_runs(objective) if ended - objective.agreed else ():
        number = int(record.tags.get("vqlab.trial", -1))
        trial = trials[number] if 0 <= number < len(trials) else None
        if trial is None or not trial.state.is_finished():
            continue
        if record.status != "RUNNING" and trial.user_attrs.get(RUN_ID) != record.run_id:
            continue  # of an earlier study of this name, which somebody deleted
        agrees = record.tags.get("optuna.state") == trial.state.name
        if not agrees or record.status != _STATUS[trial.state]:
            tags = state_tags(trial.state, trial.values, trial.user_attrs)
            objective.tracker.settle(record.run_id, _STATUS[trial.state], tags, record.status)
    objective.agreed |= ended
    tidy(objective, trials)


def trial_runs(objective: Objective) -> list[RunRecord]:
    """All runs of the study's trials."""
    name = objective.study.study_name
    return objective.tracker.runs(tags={"vqlab.kind": "trial", "vqlab.study": name})


def deleted_trials(objective: Objective) -> set[int]:
    """Return the numbers of the complete trials whose runs somebody deleted."""
    there = {record.run_id for record in trial_runs(objective)}
    complete = objective.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {trial.number for trial in complete if trial.user_attrs.get(RUN_ID) not in there}


def tidy_mine(objective: Objective, trials: list[FrozenTrial], most: int) -> None:
    """`tidy` what this process left, once that is more than the files of `most` trials."""
    if len(objective.mine) > most:
        tidy(objective, [t for t in trials if t.user_attrs.get(RUN_ID) in objective.mine])
        objective.mine.clear()


def tidy(objective: Objective, ended: list[FrozenTrial]) -> None:
    """Delete checkpoints and states of ended trials but the best of each recipe, and those that
    were to be tested.

    What is registered stays, and so does the state from which a retry will go on.
    """
    trials = objective.study.get_trials(deepcopy=False)
    best = [objective.rule.winner(recipe, trials) for recipe in objective.contest.plans]
    kept = {trial.user_attrs.get(RUN_ID) for trial in best if trial}
    registry = objective.tracker.registry
    kept |= {version.run_id for version in registry.versions(objective.splits.categories)}
    asked = objective.study.user_attrs.get(ASKED, ())
    kept |= {trials[number].user_attrs.get(RUN_ID) for number in asked if number < len(trials)}
    repeated = {t.user_attrs.get(RETRY_OF) for t in trials if t.state.is_finished()}
    for trial in trials:
        if was_interrupted(trial) and trial.number not in repeated:
            kept.add(trial.user_attrs.get(RUN_ID))
    for trial in ended:
        run_id = trial.user_attrs.get(RUN_ID)
        if run_id is None or not trial.state.is_finished() or run_id in kept | objective.tidied:
            continue
        shutil.rmtree(objective.tracker.run_folder(run_id), ignore_errors=True)
        objective.tracker.drop(run_id, "checkpoint")
        objective.tidied.add(run_id)
