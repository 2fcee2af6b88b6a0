"""Monitor workers: restart them, and emit events of their trials."""

from __future__ import annotations

import time

from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.events import (
    EpochDone,
    OnEvent,
    TrialFinished,
    TrialKey,
    TrialStarted,
    WorkerEnded,
)
from vqlab.sweep.study.policy import n_done
from vqlab.sweep.study.record import key_of, record_of, row
from vqlab.sweep.study.winner import WinnerRule
from vqlab.sweep.workers.base import Launcher
from vqlab.types import UserError

_PAUSE = 0.5


def monitor(rule: WinnerRule, launcher: Launcher, target: int, emit: OnEvent) -> None:
    """Poll the workers and emit events of trials and workers until all have ended.

    Raises UserError with the last error of the workers if they ended before the target.
    """
    events = _EventSource(rule, target, emit)
    reported = ""
    while True:
        alive = launcher.poll()
        events.emit_new()
        error = launcher.error()
        if error and not alive and rule.studies.n_done() < target:
            raise UserError(error)
        if error != reported:
            reported = error
            emit(WorkerEnded(error))
        if not alive:
            return
        time.sleep(_PAUSE)


class _EventSource:
    """Emit an event for each change of a trial."""

    def __init__(self, rule: WinnerRule, target: int, emit: OnEvent) -> None:
        self._rule, self._target, self._emit = rule, target, emit
        self._states: dict[TrialKey, TrialState] = {
            key_of(trial): trial.state for trial in rule.studies.trials()
        }
        self._epochs: dict[TrialKey, int] = {}

    def emit_new(self) -> None:
        trials = self._rule.studies.trials()
        for trial in trials:
            key, record = key_of(trial), record_of(trial)
            started = key in self._epochs
            if not started and self._has_started(trial):
                self._epochs[key] = 0
                link = self._rule.tracker.link(str(record.run_id))
                self._emit(TrialStarted(key, trial.params, link, 0))
            epoch, epochs = record.progress
            if started and epoch > self._epochs[key]:
                self._epochs[key] = epoch
                self._emit(EpochDone(key, epoch, epochs, {}))
            if trial.state.is_finished() and self._states.get(key) != trial.state:
                best = self._rule.winner()
                best_row = row(best) if best else None
                self._emit(TrialFinished(row(trial), best_row, n_done(trials), self._target))
            self._states[key] = trial.state

    def _has_started(self, trial: FrozenTrial) -> bool:
        new = trial.state == TrialState.RUNNING or self._states.get(key_of(trial)) != trial.state
        return new and record_of(trial).run_id is not None
