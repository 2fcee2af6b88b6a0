"""Monitor workers: restart them, and emit events for what they do."""

from __future__ import annotations

import time

from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.events import EpochDone, OnEvent, TrialFinished, TrialStarted, WorkerEnded
from vqlab.sweep.study.policy import n_done
from vqlab.sweep.study.record import RECIPE, recipe_of, record_of, row
from vqlab.sweep.study.winner import WinnerRule
from vqlab.sweep.workers.base import Launcher
from vqlab.types import UserError

_PAUSE = 0.5


def monitor(rule: WinnerRule, launcher: Launcher, target: int, say: OnEvent) -> None:
    """Poll the workers and emit events of trials and workers until all have ended.

    Raises UserError with the last error of the workers if they ended before the target.
    """
    study = rule.study
    events = _EventSource(rule, target, say)
    known = ""
    while True:
        alive = launcher.poll()
        events.emit_new()
        error = launcher.error()
        if error and not alive and n_done(study) < target:
            raise UserError(error)
        if error != known:
            known = error
            say(WorkerEnded(error))
        if not alive:
            return
        time.sleep(_PAUSE)


class _EventSource:
    """Emit an event for each change of a trial."""

    def __init__(self, rule: WinnerRule, target: int, say: OnEvent) -> None:
        self._rule, self._study, self._target, self._say = rule, rule.study, target, say
        self._states: dict[int, TrialState] = {
            t.number: t.state for t in rule.study.get_trials(deepcopy=False)
        }
        self._epochs: dict[int, int] = {}

    def emit_new(self) -> None:
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
                done = n_done(self._study)
                best_row = row(best) if best else None
                self._say(TrialFinished(row(trial), best_row, done, self._target))
            self._states[trial.number] = trial.state

    def _has_begun(self, trial: FrozenTrial) -> bool:
        new = trial.state == TrialState.RUNNING or self._states.get(trial.number) != trial.state
        return new and record_of(trial).run_id is not None
