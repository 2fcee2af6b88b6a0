"""The study: where Optuna keeps it, who may work on it, what a killed sweep left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import warnings
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from vqlab.types import UserError

_HEARTBEAT, _GRACE = 60, 180
_CHAIN = 5
"""A trial that ends its process this often in a row is not tried again."""
_STARTUP = 5
"""Trials before the sampler models anything and the pruner prunes: budgets are small."""

RUN_ID, INTERRUPTED, RETRY_OF, DEAD, REASON = (
    "mlflow_run_id", "interrupted", "retry_of", "dead_codebook", "reason",
)  # fmt: skip
RECIPE = "recipe"
"""What a trial draws first where a study compares several recipes."""


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn what a full disk or an unusable study store raises into one sentence."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise UserError(
            f"the study store {path} cannot be used ({reason}); free some space, or make it "
            "readable and writable, and run the same command again."
        ) from error


def open_storage(path: Path) -> RDBStorage:
    """The SQLite store of studies, made where it is not there. Raises UserError if unusable."""
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                f"sqlite:///{path.absolute()}",
                engine_kwargs={"connect_args": {"timeout": 60}},
                heartbeat_interval=_HEARTBEAT,
                grace_period=_GRACE,
                heartbeat_stale_trial_callback=_retry_stale,
            )


@contextlib.contextmanager
def only_one(folder: Path, study: str) -> Iterator[None]:
    """Hold the study's lock. Raises UserError naming the process that holds it.

    The lock ends with its process, however that ends; so whoever holds it knows that no trial of
    the study is running.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{study}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise UserError(
                f"study {study} is being swept by process {pid} already; wait for it, or end it "
                f"(kill {pid}), and run the same command again."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def open_study(
    storage: BaseStorage, name: str, direction: Literal["maximize", "minimize"]
) -> optuna.Study:
    """The study of that name, made where it is not there."""
    return optuna.create_study(
        study_name=name,
        storage=storage,
        direction=direction,
        load_if_exists=True,
        pruner=_PruneAmongAlike(n_startup_trials=_STARTUP, n_min_trials=3),
    )


def sampler(seed: int, trials_so_far: int) -> TPESampler:
    """A sampler seeded anew for each trial, so that a resumed study does not draw the same points
    again, and a study draws the same whether or not it was stopped in between."""
    word = np.random.SeedSequence([seed, trials_so_far]).generate_state(1)[0]
    return _SampleAmongAlike(seed=int(word), n_startup_trials=_STARTUP)


def recipe_of(trial: FrozenTrial) -> str:
    """The recipe that a trial drew, or is to draw; empty in a study of one recipe."""
    queued = trial.system_attrs.get("fixed_params", {})
    return str(trial.params.get(RECIPE, queued.get(RECIPE, "")))


class _Alike(optuna.Study):
    """A study in which there are only the trials of one recipe.

    Recipes are compared by what becomes of them, not before: an epoch of one says nothing of an
    epoch of another, and what is good among all trials would be the settings of one recipe alone.
    """

    def __init__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.__dict__.update(study.__dict__)  # the same study, the store is not asked again
        self._recipe = recipe_of(trial)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if recipe_of(trial) == self._recipe]


class _PruneAmongAlike(MedianPruner):
    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return super().prune(_Alike(study, trial), trial)


class _SampleAmongAlike(TPESampler):
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(_Alike(study, trial), trial, name, distribution)


def siblings(study: optuna.Study, base: str) -> list[str]:
    """Names of the other studies that differ from this one in space, settings or data only."""
    names = optuna.get_all_study_names(study._storage)
    return sorted(n for n in names if n != study.study_name and n.rpartition("-")[0] == base)


def settled(study: optuna.Study) -> int:
    """Trials that count towards the target: complete or pruned."""
    return sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in study.get_trials(False))


def best_trial(study: optuna.Study, recipe: str | None = None) -> FrozenTrial | None:
    """The complete trial of best value, those with a dead codebook only where no other is there.

    recipe: among the trials of this one alone.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    done = [t for t in done if recipe in (None, recipe_of(t))]
    done = [t for t in done if DEAD not in t.user_attrs] or done
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(done, key=lambda t: (sign * _value(t), t.number), default=None)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def reconcile(study: optuna.Study) -> list[int]:
    """Mark what a killed sweep left running as failed and queue each such trial once more.

    To be called by the holder of the study's lock. Returns the numbers of the trials queued.
    """
    storage = study._storage
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    queued = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if trial.user_attrs.get(INTERRUPTED) and retry(study, trial):
            queued.append(trial.number)
    return queued


def retry(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Queue an interrupted trial's settings again, once; says whether it did.

    Two workers may find the same stale trial at once, hence the lock around looking and adding.
    """
    with _retry_lock(study):
        trials = study.get_trials(deepcopy=False)
        if any(t.user_attrs.get(RETRY_OF) == trial.number for t in trials):
            return False
        if _attempts(trials, trial) >= _CHAIN:
            return False
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        study.enqueue_trial(params, user_attrs={RETRY_OF: trial.number})
        return True


def _retry_stale(study: optuna.Study, trial: FrozenTrial) -> None:
    retry(study, trial)


def _attempts(trials: list[FrozenTrial], trial: FrozenTrial) -> int:
    count, number = 1, trial.user_attrs.get(RETRY_OF)
    while number is not None:
        count, number = count + 1, trials[number].user_attrs.get(RETRY_OF)
    return count


@contextlib.contextmanager
def _retry_lock(study: optuna.Study) -> Iterator[None]:
    storage: Any = getattr(study._storage, "_backend", study._storage)
    database = str(storage.engine.url.database)
    with open(f"{database}.retry.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
