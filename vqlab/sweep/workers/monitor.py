"""Watching a study that workers are at: what happens is read from the store and told as events."""

from __future__ import annotations

import time

from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.events import EpochDone, OnEvent, TrialFinished, TrialStarted, WorkerEnded
from vqlab.sweep.study.policy import settled
from vqlab.sweep.study.record import RECIPE, recipe_of, record_of, row
from vqlab.sweep.study.winner import WinnerRule
from vqlab.sweep.workers.base import Launcher
from vqlab.types import UserError

_PAUSE = 0.5


def watch(rule: WinnerRule, launcher: Launcher, target: int, say: OnEvent) -> None:
    """Tend the workers and tell what becomes of trials and workers, until all have ended.

    Raises UserError with what the workers complained of, where they ended before the target and
    no time limit was reached.
    """
    study = rule.study
    told = _Told(rule, target, say)
    known = ""
    while True:
        alive = launcher.tend()
        told.look()
        complaint = launcher.complaint()
        if complaint and not alive and settled(study) < target:
            raise UserError(complaint)
        if complaint != known:
            known = complaint
            say(WorkerEnded(complaint))
        if not alive:
            return
        time.sleep(_PAUSE)


class _Told:
    """What was said of each trial already."""

    def __init__(self, rule: WinnerRule, target: int, say: OnEvent) -> None:
        self._rule, self._study, self._target, self._say = rule, rule.study, target, say
        self._states: dict[int, TrialState] = {
            t.number: t.state for t in rule.study.get_trials(deepcopy=False)
        }
        self._epochs: dict[int, int] = {}

    def look(self) -> None:
        for trial in self._study.get_trials(deepcopy=False):
            begun = trial.number in self._epochs
            if not begun and self._has_begun(trial):
                self._epochs[trial.number] = 0
                run_id = str(record_of(trial).run_id)
                params = {k: v for k, v in trial.params.items() if k != RECIPE}
                link, recipe = self._rule.tracker.link(run_id), recipe_of(trial)
                self._say(TrialStarted(trial.number, params, link, 0, recipe))
            epoch, epochs = record_of(trial).progress
            if begun and epoch > self._epochs[trial.number]:
                self._epochs[trial.number] = epoch
                self._say(EpochDone(trial.number, epoch, epochs, {}))
            if trial.state.is_finished() and self._states.get(trial.number) != trial.state:
                best = self._rule.winner()
                done = settled(self._study)
                best_row = row(best) if best else None
                self._say(TrialFinished(row(trial), best_row, done, self._target))
            self._states[trial.number] = trial.state

    def _has_begun(self, trial: FrozenTrial) -> bool:
        new = trial.state == TrialState.RUNNING or self._states.get(trial.number) != trial.state
        return new and record_of(trial).run_id is not None
