"""Run a trial with heartbeat, progress, and the reason if it ends early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.study.record import note
from vqlab.sweep.study.retry import trial_id
from vqlab.sweep.study.storage import database_message, heartbeat
from vqlab.types import UserError

_RECORD_SECONDS = 1.0
"""Minimum seconds between two records of a trial's progress."""
RunTrial = Callable[[optuna.Trial], float | tuple[float, ...]]
"""Run a trial and return the values of its objectives."""


def run_trial(
    study: optuna.Study, storage: RDBStorage, trial: optuna.Trial, run: RunTrial
) -> FrozenTrial:
    """Run a trial and record its heartbeat."""
    values, state = None, TrialState.FAIL
    try:
        with heartbeat(storage, trial_id(storage, study, trial.number)):
            values, state = run(trial), TrialState.COMPLETE
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except Exception:
        pass  # the reason is stored in the trial
    except BaseException:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise
    try:
        return study.tell(trial, values, state, skip_if_finished=True)
    except UpdateFinishedTrialError:  # another worker failed it for a missing heartbeat
        return study.get_trials(deepcopy=False)[trial.number]


@contextmanager
def noted_reason(trial: optuna.Trial) -> Iterator[None]:
    """Store the reason in a trial if it ends early."""
    try:
        yield
    except optuna.TrialPruned as error:
        note(trial, reason=str(error))
        raise
    except Exception as error:
        note(trial, reason=sentence(error))
        raise
    except BaseException:
        note(trial, interrupted=True, reason="interrupted")
        raise


def sentence(error: Exception) -> str:
    """Return why a trial failed."""
    if isinstance(error, StorageInternalError):
        return f"the study store could not be used: {database_message(error)}."
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


class TrialProgress:
    """Record the progress of a trial, at most once a second."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial, self._recorded = trial, 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() > self._recorded + _RECORD_SECONDS:
            self._recorded = time.monotonic()
            note(self._trial, progress=[done, total])
