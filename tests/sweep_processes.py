"""Sweeps in separate processes, and checks of their stores."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from one_study import load_study
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from vqlab.sweep.study.record import record_of, row, was_interrupted
from vqlab.sweep.study.storage import open_storage, storage_address
from vqlab.tracking import Tracker

SPACE = {
    "validations": 0,
    "space": {
        "detector.codebook_size": {"choices": [8, 16]},
        "training.learning_rate": {"low": "3e-4", "high": "3e-3", "log": True},
    },
}
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def start_sweep(folder: Path, trials: int, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vqlab", "sweep", "tiny.yaml", "--space", "space.yaml"]
    command += ["--n-trials", str(trials), "--workers", str(workers)]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def wait_for_exit(process: subprocess.Popen[str]) -> str:
    output, complaint = process.communicate(timeout=400)
    assert process.returncode == 0, complaint[-3000:]
    return output


_OPEN: dict[str, RDBStorage] = {}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close stores at the end of a test, as psycopg requires."""
    yield
    for storage in _OPEN.values():
        storage.remove_session()
        storage.engine.dispose()
    _OPEN.clear()


def study_in(folder: Path) -> optuna.Study:
    address = storage_address(folder / "mlruns")
    if address not in _OPEN:
        _OPEN[address] = open_storage(address)
    storage = _OPEN[address]
    (name,) = optuna.get_all_study_names(storage)
    return load_study(storage, name)


def wait_for(condition: Callable[[], Any], seconds: float = 200) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("nothing came of it")


def running_trials(folder: Path, any_store: bool = False) -> list[optuna.trial.FrozenTrial]:
    """Return running trials that have trained for some epochs."""
    if not any_store and not (folder / "mlruns" / "optuna.db").exists():
        return []
    try:
        trials = study_in(folder).get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    except ValueError:  # the study does not exist yet
        return []
    return [trial for trial in trials if "progress" in trial.user_attrs]


def is_alive(process: psutil.Process) -> bool:
    """Return False for zombies, whose parent may not have waited for them."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def assert_stores_agree(
    folder: Path, target: int, failed: Collection[int] = (), without_run: Collection[int] = ()
) -> optuna.Study:
    """Assert that the target is reached, each interrupted trial was retried once, and MLflow agrees
    with Optuna.

    failed: numbers of the trials that raised an error. without_run: numbers of trials that may have
    no run in MLflow.
    """
    study = study_in(folder)
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    assert states["COMPLETE"] + states["PRUNED"] == target
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    repeats = Counter(record_of(t).retry_of for t in trials if "retry_of" in t.user_attrs)
    ended = {t.number for t in trials if t.state == TrialState.FAIL}
    assert repeats == {number: 1 for number in ended if number not in failed}
    failed_numbers = {number for number in ended if not was_interrupted(trials[number])}
    assert failed_numbers == set(failed)
    tracker = Tracker.open(folder / "mlruns")
    assert not [run.name for run in tracker.runs() if run.status == "RUNNING"]
    runs = tracker.runs(tags={"vqlab.kind": "trial"})
    for run in runs:
        trial = trials[int(run.tags["vqlab.trial"])]
        assert (run.tags["optuna.state"], run.status) == (
            trial.state.name, STATUS[trial.state.name],
        )  # fmt: skip
        assert run.tags.get("vqlab.reason", "") == row(trial).reason
    recorded = {int(run.tags["vqlab.trial"]) for run in runs}
    assert recorded >= failed_numbers - set(without_run)
    complete = [record_of(t).run_id for t in trials if t.state == TrialState.COMPLETE]
    assert set(complete) <= {run.run_id for run in runs}
    return study


COUNTED = """
import sys
import optuna
from vqlab.sweep.study.storage import open_storage
from vqlab.sweep.study.studies import open_studies
from vqlab.sweep.workers.loop import run_trials
from vqlab.sweep.workers.task import TRIALS_AT_START, SEED, TARGET
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = open_storage(sys.argv[1])
studies = open_studies(storage, "s", [""], ["maximize"])
for name, value in {TARGET: 100, SEED: 0, TRIALS_AT_START: 0}.items():
    studies.set_attribute(name, value)
run = lambda trial: trial.suggest_float("x", 0, 1)
run_trials(studies, storage, run, next_recipe=str)
"""
"""A worker's own loop, with trials that take no time."""
