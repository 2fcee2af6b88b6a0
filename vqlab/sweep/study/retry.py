"""Retry trials that were interrupted with their workers."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.study.record import record_of, stored, was_interrupted
from vqlab.tracking import owner_is_gone, owner_tags

_ATTEMPTS = 5
"""Maximum number of attempts of an interrupted trial."""


def this_worker() -> dict[str, str]:
    """Identify the worker (host, PID, thread) that runs a trial."""
    return {**owner_tags(), "vqlab.thread": str(threading.get_ident())}


def ask(study: optuna.Study) -> optuna.Trial:
    """Create a trial, or take the next one that is queued."""
    with warnings.catch_warnings():  # Optuna expects heartbeats in Study.optimize only
        warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")
        return study.ask()


def trial_id(storage: BaseStorage, study: optuna.Study, number: int) -> int:
    """Return the storage's ID of a trial."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def reconcile(study: optuna.Study, storage: BaseStorage) -> list[int]:
    """Mark running trials without a live worker as failed, and queue each for one retry.

    Call it with the lock of the sweep held: a worker that is sampling a trial has not been recorded
    in it yet. Also fails trials without a recent heartbeat, and trials that the calling thread left
    behind. Returns the numbers of the interrupted trials that were queued.
    """
    trials = study.get_trials(deepcopy=False)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in running:
        if _was_left(record_of(trial).worker):
            try:
                at = trial_id(storage, study, trial.number)
                for name, value in stored(interrupted=True).items():
                    storage.set_trial_user_attr(at, name, value)
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            except UpdateFinishedTrialError:  # it has just ended
                continue
    if running:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
    queued = []
    for trial in trials:
        if was_interrupted(trial) and retry(study, trial):
            queued.append(trial.number)
    return queued


def queued_retries(study: optuna.Study) -> list[int]:
    """Return the numbers of the interrupted trials whose retry is queued."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    repeated = [record_of(trial).retry_of for trial in waiting]
    return [number for number in repeated if number is not None]


def _was_left(worker: Mapping[str, str] | None) -> bool:
    """Return whether the worker of a running trial has surely left it."""
    if worker is None or owner_is_gone(worker):
        return True
    current = this_worker()
    return all(
        worker.get(key) == current[key] for key in ("vqlab.host", "vqlab.pid", "vqlab.thread")
    )


def retry(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Queue the settings of an interrupted trial once more; return whether they were queued.

    Call it with the lock of the sweep held.
    """
    trials = study.get_trials(deepcopy=False)
    if any(record_of(t).retry_of == trial.number for t in trials):
        return False
    if _attempts(trials, trial) >= _ATTEMPTS:
        return False
    record = record_of(trial)
    params = {**record.queued, **trial.params}
    copied = {"recipe": record.recipe, "as_in_recipe": record.as_in_recipe, "queued": record.queued}
    attrs = stored(retry_of=trial.number, **{k: v for k, v in copied.items() if v})
    study.enqueue_trial(params, user_attrs=attrs)
    return True


def _attempts(trials: list[FrozenTrial], trial: FrozenTrial) -> int:
    count, number = 1, record_of(trial).retry_of
    while number is not None:
        count, number = count + 1, record_of(trials[number]).retry_of
    return count
