"""Mirror a sweep in MLflow: state, value and reason of its trials."""

from __future__ import annotations

import shutil
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import TrialKey
from vqlab.sweep.study.record import key_of, record_of, retried_key, state_tags, was_interrupted
from vqlab.sweep.study.studies import TESTED_ON_REQUEST
from vqlab.tracking import Run, RunRecord

_STATUS: dict[TrialState, Literal["FINISHED", "KILLED", "FAILED"]] = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}


class Mirror:
    """Update the runs of a sweep's trials, and delete the files of trials that did not win."""

    def __init__(self, context: SweepContext) -> None:
        self.context = context
        self.runs: dict[str, Run] = {}
        """Runs, by ID, of the trials of this process since it last deleted files."""
        self._updated: set[TrialKey] = set()
        """Ended trials whose runs are up to date."""
        self._cleaned: set[str] = set()
        """IDs of the runs whose files were deleted."""

    def update(self, trial: FrozenTrial) -> None:
        """Write state, value and reason of an ended trial to its run."""
        record = record_of(trial)
        run = self.runs.get(record.run_id) if record.run_id else None
        tags = state_tags(trial.state, trial.values, record)
        agrees = run and run.status == _STATUS[trial.state] and tags.items() <= run.tags.items()
        if record.run_id and not agrees:
            status = run.status if run else None
            self.context.tracker.set_status(record.run_id, _STATUS[trial.state], tags, status)
        self._updated.add(key_of(trial))

    def update_all(self) -> None:
        """Correct every run of the sweep that disagrees with its trial, and delete files.

        A run that is RUNNING although its trial has ended belongs to a killed process.
        """
        trials = self.context.studies.trials()
        ended = {key_of(trial): trial for trial in trials if trial.state.is_finished()}
        for run in trial_runs(self.context) if ended.keys() - self._updated else ():
            key = TrialKey(run.tags.get("vqlab.recipe", ""), int(run.tags.get("vqlab.trial", -1)))
            trial = ended.get(key)
            if trial is None:
                continue
            record = record_of(trial)
            if run.status != "RUNNING" and record.run_id != run.run_id:
                continue  # of a deleted study of the same name
            agrees = run.tags.get("optuna.state") == trial.state.name
            if not agrees or run.status != _STATUS[trial.state]:
                tags = state_tags(trial.state, trial.values, record)
                self.context.tracker.set_status(run.run_id, _STATUS[trial.state], tags, run.status)
        self._updated |= ended.keys()
        self.clean_up(trials)

    def clean_up_own(self, trials: list[FrozenTrial], most: int) -> None:
        """`clean_up` the trials of this process if there are more than `most`."""
        if len(self.runs) > most:
            self.clean_up([t for t in trials if record_of(t).run_id in self.runs])
            self.runs.clear()

    def clean_up(self, trials: list[FrozenTrial]) -> None:
        """Delete checkpoints and training states of ended trials.

        Except those of the best trial of each recipe, of registered models, of trials to be
        tested, and of interrupted trials whose retry has not ended.
        """
        keep = self._runs_to_keep()
        for trial in trials:
            run_id = record_of(trial).run_id
            if run_id is None or not trial.state.is_finished() or run_id in keep | self._cleaned:
                continue
            shutil.rmtree(self.context.tracker.run_folder(run_id), ignore_errors=True)
            self.context.tracker.delete_artifact(run_id, "checkpoint")
            self._cleaned.add(run_id)

    def _runs_to_keep(self) -> set[str | None]:
        context = self.context
        trials = context.studies.trials()
        keep = [context.rule.winner(recipe, trials) for recipe in context.comparison.plans]
        for recipe, study in context.studies.by_recipe.items():
            requested = study.user_attrs.get(TESTED_ON_REQUEST, ())
            keep += [context.studies.find(TrialKey(recipe, number)) for number in requested]
        retried = {retried_key(t) for t in trials if t.state.is_finished()}
        keep += [t for t in trials if was_interrupted(t) and key_of(t) not in retried]
        versions = context.tracker.registry.versions(context.splits.categories)
        return {record_of(trial).run_id for trial in keep if trial} | {v.run_id for v in versions}


def trial_runs(context: SweepContext) -> list[RunRecord]:
    """Return all runs of the sweep's trials."""
    tags = {"vqlab.kind": "trial", "vqlab.study": context.studies.name}
    return context.tracker.runs(tags=tags)


def deleted_trials(context: SweepContext) -> set[TrialKey]:
    """Return the keys of the complete trials whose runs were deleted."""
    present = {run.run_id for run in trial_runs(context)}
    complete = context.studies.trials(TrialState.COMPLETE)
    return {key_of(trial) for trial in complete if record_of(trial).run_id not in present}
