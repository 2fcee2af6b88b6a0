"""Failures during a sweep: failing trials, locked and full stores, deleted runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy
import yaml
from one_study import load_study, open_study
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from sweep_processes import (  # noqa: F401
    assert_stores_agree,
    closed,
    running_trials,
    start_sweep,
    study_in,
    wait_for,
    wait_for_exit,
)
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.config import merge, nest
from vqlab.evaluation import Report
from vqlab.sweep import (
    EpochDone,
    Event,
    SweepResult,
    TrialStarted,
    make_comparison,
    make_space,
    sweep,
)
from vqlab.sweep.study.execution import sentence
from vqlab.sweep.study.record import record_of, was_interrupted
from vqlab.sweep.study.retry import ask, reconcile, this_worker, trial_id
from vqlab.sweep.study.storage import heartbeat, open_storage, opened_storage
from vqlab.sweep.study.studies import Studies
from vqlab.sweep.workers.loop import run_trials
from vqlab.sweep.workers.task import SEED, TARGET, TRIALS_AT_START
from vqlab.tracking import Run, Tracker
from vqlab.types import UserError

Tree = dict[str, Any]
RATE = {"training.learning_rate": {"low": "3e-4", "high": "3e-3", "log": True}}
SIZES = {**RATE, "data.image_size": {"choices": [32, 48]}}
BROKEN = 1e39
"""A commitment beyond what float32 holds: the loss is infinite at once."""


pytestmark = pytest.mark.usefixtures("empty_mlruns")


# Single process


def aim_at(trials: int, study: optuna.Study) -> None:
    for name, value in {TARGET: trials, SEED: 0, TRIALS_AT_START: 0}.items():
        study.set_user_attr(name, value)


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch, blank_figures: None) -> None:
    """Skip the evaluation on the test set, which takes longer than everything else."""

    def tested(model: Any, config: Any, splits: Any, run: Run, results: Path) -> Any:
        run.log_metrics({"test/image_auroc": 1.0})
        return Report({}, {}), {}, results

    monkeypatch.setattr("vqlab.sweep.result.test_model", tested)


def sweep_here(
    folder: Path, tree: Tree, axes: Tree, trials: int, on_event: Any = lambda event: None
) -> SweepResult:
    return sweep(
        make_comparison(make_space({"validations": 0, "space": axes}), tree),
        Tracker.open(folder / "mlruns"),
        trials=trials,
        results=folder / "results",
        on_event=on_event,
    )


@pytest.mark.usefixtures("untested")
def test_trial_is_retried_if_its_process_survives(root: Path, tmp_path: Path) -> None:
    """SystemExit, for example, ends a trial but not the process in a notebook."""
    started = []

    def raise_system_exit(event: Event) -> None:
        if isinstance(event, EpochDone):
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        sweep_here(tmp_path, tiny_recipe(root), RATE, 1, raise_system_exit)
    trials = study_in(tmp_path).get_trials(deepcopy=False)
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.WAITING]
    assert was_interrupted(trials[0])
    runs = Tracker.open(tmp_path / "mlruns").runs(kinds=["trial"])
    assert [(r.status, r.tags["optuna.state"]) for r in runs] == [("FAILED", "FAIL")]

    def note(event: Event) -> None:
        if isinstance(event, TrialStarted):
            started.append((event.number, event.resumed_at))

    sweep_here(tmp_path, tiny_recipe(root), RATE, 1, note)
    assert started == [(1, 1)]
    assert_stores_agree(tmp_path, 1)


class Frozen:
    """A study store that rejects writes while `on`."""

    def __init__(self, storage: RDBStorage) -> None:
        self._engine, self.on = storage.engine, False
        sqlalchemy.event.listen(storage.engine, "connect", self._connected)

    def set(self, on: bool) -> None:
        self.on = on
        self._engine.dispose()

    def _connected(self, connection: Any, record: Any) -> None:
        connection.execute(f"PRAGMA query_only={int(self.on)}")


def test_trial_is_retried_if_its_result_cannot_be_stored(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    with pytest.raises(UserError, match="cannot be used .*readonly") as error:
        with opened_storage(address) as storage:
            study = open_study(storage, "s")
            aim_at(2, study)
            ask(study).set_user_attr("worker", {**this_worker(), "vqlab.thread": ""})
            frozen = Frozen(storage)

            def run(trial: optuna.Trial) -> float:
                frozen.set(True)
                return 1.0

            studies = Studies("s", {"": study})
            run_trials(studies, storage, run, next_recipe=str)
    assert isinstance(error.value.__cause__, optuna.exceptions.StorageInternalError)
    assert "store could not be used: attempt to write" in sentence(error.value.__cause__)
    with opened_storage(address) as storage:
        study = load_study(storage, "s")
        assert [t.state.name for t in study.trials] == ["RUNNING", "RUNNING"]
        assert reconcile(study, storage) == [1]  # the other one is of another thread
        assert [t.state.name for t in study.trials] == ["RUNNING", "FAIL", "WAITING"]


@pytest.mark.usefixtures("untested")
def test_image_replaced_during_a_sweep_fails_the_trial(tmp_path: Path) -> None:
    """Only a trial that reads the images again detects the change; both stores record the error."""
    root = write_tiny_set(tmp_path / "data")
    image = root / "part/train/good/000.png"

    def replace(event: Event) -> None:
        if isinstance(event, TrialStarted) and event.number == 0:
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)

    result = sweep_here(tmp_path, tiny_recipe(root, epochs=0), SIZES, 3, replace)
    other = {row.number for row in result.trials if row.params["data.image_size"] == 48}
    assert other
    for trial in assert_stores_agree(tmp_path, 3, failed=other).trials:
        if trial.number in other:
            assert "differ from those of study" in str(record_of(trial).reason)


@pytest.mark.usefixtures("untested")
def test_trial_with_deleted_run_does_not_win(root: Path, tmp_path: Path) -> None:
    tree = tiny_recipe(root, epochs=0)
    first = sweep_here(tmp_path, tree, RATE, 2)
    tracker = Tracker.open(tmp_path / "mlruns")
    tracker._client.delete_run(first.best.run_id)
    second = sweep_here(tmp_path, tree, RATE, 2)
    assert second.best.number == 1 - first.best.number
    assert f"their runs were deleted: trial {first.best.number} " in second.notes[-1]
    tracker._client.delete_run(second.best.run_id)
    with pytest.raises(UserError, match="of all complete trials of study .* were deleted"):
        sweep_here(tmp_path, tree, RATE, 2)


@pytest.mark.usefixtures("untested")
def test_deleted_study_is_started_from_scratch(root: Path, tmp_path: Path) -> None:
    """Runs of its trials are not changed."""
    tree = tiny_recipe(root, epochs=0)
    before = sweep_here(tmp_path, tree, RATE, 2)
    for file in (tmp_path / "mlruns").glob("optuna.db*"):
        file.unlink()
    after = sweep_here(tmp_path, tree, RATE, 1)
    assert after.study == before.study and len(after.trials) == 1
    runs = Tracker.open(tmp_path / "mlruns").runs(kinds=["trial"])
    assert [run.status for run in runs] == ["FINISHED"] * 3
    assert {trial.run_id for trial in after.tested} == {after.best.run_id}


def test_rejected_heartbeat_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later heartbeat is recorded."""
    monkeypatch.setenv("VQLAB_HEARTBEAT", "1")
    storage = open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")
    study = open_study(storage, "s")
    trial = ask(study)
    frozen = Frozen(storage)

    def recorded() -> int:
        with storage.engine.connect() as connection:
            return connection.scalar(sqlalchemy.text("SELECT COUNT(*) FROM trial_heartbeats")) or 0

    frozen.set(True)
    with heartbeat(storage, trial_id(storage, study, trial.number)):
        time.sleep(1.5)
        assert recorded() == 0
        frozen.set(False)
        wait_for(recorded)


def test_trial_without_a_heartbeat_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker runs on another machine, so nothing else shows whether it is alive."""
    monkeypatch.setenv("VQLAB_HEARTBEAT", "1")
    storage = open_storage(f"sqlite:///{tmp_path / 'optuna.db'}")
    study = open_study(storage, "s")
    for host in ("dead", "alive"):
        ask(study).set_user_attr("worker", {**this_worker(), "vqlab.host": host})
    dead, alive = (trial_id(storage, study, number) for number in (0, 1))
    storage.record_heartbeat(dead)
    with heartbeat(storage, alive):
        assert reconcile(study, storage) == []
        wait_for(lambda: reconcile(study, storage) == [0])
    assert [t.state.name for t in study.trials] == ["FAIL", "RUNNING", "WAITING"]


def test_trial_failed_by_another_worker(tmp_path: Path) -> None:
    """The worker finds its trial finished at the end and takes the next one."""
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    ended = []
    with opened_storage(address) as storage, opened_storage(address) as others:
        study = open_study(storage, "s")
        aim_at(1, study)

        def run(trial: optuna.Trial) -> float:
            if trial.number == 0:
                load_study(others, "s").tell(trial.number, state=TrialState.FAIL)
            return 1.0

        run_trials(
            Studies("s", {"": study}),
            storage,
            run,
            next_recipe=str,
            ended=lambda trial, target: ended.append(trial),
        )
    assert [(t.number, t.state.name) for t in ended] == [(0, "FAIL"), (1, "COMPLETE")]
    assert record_of(ended[1]).retry_of == 0


# Two workers


def prepare(folder: Path, tree: Tree, axes: Tree) -> Path:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    (folder / "space.yaml").write_text(yaml.safe_dump({"validations": 0, "space": axes}))
    return folder


def trials_of(folder: Path, state: TrialState) -> list[FrozenTrial]:
    try:
        return study_in(folder).get_trials(deepcopy=False, states=(state,))
    except ValueError:  # the study does not exist yet
        return []


def failed_numbers(folder: Path) -> set[int]:
    """Return the numbers of trials that failed with an error, not because their worker was
    killed."""
    failed = trials_of(folder, TrialState.FAIL)
    return {trial.number for trial in failed if not was_interrupted(trial)}


def kill_worker_of(trial: FrozenTrial) -> None:
    os.kill(int(trial.user_attrs["worker"]["vqlab.pid"]), signal.SIGKILL)


def error_of(process: subprocess.Popen[str]) -> str:
    """Return the error with which a sweep stopped early."""
    _, error = process.communicate(timeout=400)
    assert process.returncode == 2, error[-3000:]
    assert len(error.strip().splitlines()) == 1, error
    return error


def check(
    folder: Path, target: int, failed: Collection[int] = (), without_run: Collection[int] = ()
) -> optuna.Study:
    """As `assert_stores_agree`; in addition, assert that no worker printed a traceback."""
    for log in (folder / "mlruns" / "sweeps").glob("*.log"):
        assert "Traceback" not in log.read_text()
    return assert_stores_agree(folder, target, failed, without_run)


def one_line(output: str, words: str) -> str:
    (line,) = (line for line in output.splitlines() if line.startswith(words))
    return line


@pytest.mark.slow
def test_exception_in_one_trial(root: Path, tmp_path: Path) -> None:
    axes = {**RATE, "detector.commitment": {"choices": [0.2, 0.3, 0.4, BROKEN]}}
    # makes the first trial fail
    tree = merge(tiny_recipe(root), nest("detector.commitment", BROKEN))
    output = wait_for_exit(start_sweep(prepare(tmp_path, tree, axes), trials=3, workers=2))
    trials = study_in(tmp_path).get_trials(deepcopy=False)
    faulty = {t.number for t in trials if t.params["detector.commitment"] == BROKEN}
    check(tmp_path, 3, failed=faulty)
    assert 0 in faulty and "diverged" in one_line(output, "trial 0 FAIL (")


@pytest.mark.slow
def test_sweep_stops_if_all_trials_fail(root: Path, tmp_path: Path) -> None:
    axes = {**RATE, "detector.commitment": {"choices": [BROKEN, 2 * BROKEN]}}
    tree = merge(tiny_recipe(root), nest("detector.commitment", BROKEN))
    folder = prepare(tmp_path, tree, axes)
    for call in (1, 2):
        error = error_of(start_sweep(folder, trials=20, workers=2))
        assert "the sweep stopped: " in error and "diverged" in error
        trials = study_in(folder).get_trials(deepcopy=False)
        assert {t.state for t in trials} == {TrialState.FAIL}
        assert 3 * call <= len(trials) <= 4 * call  # the other worker was running one more trial
        runs = Tracker.open(folder / "mlruns").runs()
        assert {r.status for r in runs} == {"FAILED"} and len(runs) == len(trials) + 1


@pytest.mark.slow
def test_image_that_becomes_unreadable(tmp_path: Path) -> None:
    """Trials that read it fail, and a worker that starts later stops; other trials continue."""
    root = write_tiny_set(tmp_path / "data")
    # Few anomalies: by default one takes its texture from the image, so that every trial reads it.
    few = {"data": {"synthetic_defects": 2, "validation": {"kinds": "generic"}}}
    folder = prepare(tmp_path, merge(tiny_recipe(root, epochs=25), few), SIZES)
    process = start_sweep(folder, trials=4, workers=2)
    trial = wait_for(lambda: running_trials(folder))[0]
    wait_for(lambda: len(trials_of(folder, TrialState.RUNNING)) == 2)
    image = root / "part/train/good/000.png"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    kill_worker_of(trial)
    output = wait_for_exit(process)
    assert str(image) in one_line(output, "note: a worker ended: ")
    faulty = failed_numbers(folder)
    assert faulty
    study = check(folder, 4, failed=faulty)
    for number in faulty:
        assert str(image) in str(record_of(study.trials[number]).reason)
    assert str(image) in error_of(start_sweep(folder, trials=5, workers=2))
    image.write_bytes(content)
    wait_for_exit(start_sweep(folder, trials=5, workers=2))
    check(folder, 5, failed=faulty)


HOLDING = """
import sqlite3, sys, time
store = sqlite3.connect(sys.argv[1], timeout=60)
store.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(90)
store.rollback()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
def test_store_locked_for_a_minute(root: Path, tmp_path: Path, name: str) -> None:
    """A worker in a trial and a worker that is starting both wait."""
    folder = prepare(tmp_path, tiny_recipe(root, epochs=25), RATE)
    process = start_sweep(folder, trials=4, workers=2)
    trial = wait_for(lambda: running_trials(folder))[0]
    command = [sys.executable, "-c", HOLDING, str(folder / "mlruns" / name)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "locked\n"
    kill_worker_of(trial)
    other.communicate()
    output = wait_for_exit(process)
    assert "note: a worker ended" not in output
    study = check(folder, 4)
    assert [t.number for t in study.trials if t.state == TrialState.FAIL] == [trial.number]


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Keep a disk full: space that a deleted file frees is filled again."""
    ended = threading.Event()

    def fill() -> None:
        with (disk / "filler").open("ab", buffering=0) as filler:
            while not ended.is_set():
                try:
                    filler.write(bytes(4096))
                except OSError:
                    full.set()
                    ended.wait(0.02)

    full = threading.Event()
    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert full.wait(60)
        yield
    finally:
        ended.set()
        thread.join()
        (disk / "filler").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("under", ["both stores", "runs"])
def test_full_disk_of_a_store(
    root: Path, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under: str
) -> None:
    """No trial can continue: the sweep stops with an error and resumes once there is space."""
    if under == "runs":
        monkeypatch.setenv("VQLAB_STORAGE", f"sqlite:///{tmp_path / 'optuna.db'}")
    folder = prepare(small_disk, tiny_recipe(root, epochs=25), RATE)
    process = start_sweep(folder, trials=4, workers=2)
    wait_for(lambda: running_trials(folder, any_store=True))
    with filled(small_disk):
        error = error_of(process)
    assert "disk is full" in error and str(small_disk) in error
    faulty = failed_numbers(folder)
    for trial in trials_of(folder, TrialState.FAIL):
        assert trial.number not in faulty or "full" in str(record_of(trial).reason)
    wait_for_exit(start_sweep(folder, trials=4, workers=2))
    check(folder, 4, failed=faulty, without_run=faulty)  # the trial whose run could not be created


@pytest.mark.slow
def test_full_disk_of_the_states(
    root: Path, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the stores are on another disk, only trials that write a state fail."""
    monkeypatch.setenv("VQLAB_STORAGE", f"sqlite:///{tmp_path / 'optuna.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    folder = prepare(small_disk, tiny_recipe(root, epochs=25), RATE)
    process = start_sweep(folder, trials=5, workers=2)
    wait_for(lambda: trials_of(folder, TrialState.COMPLETE))
    with filled(small_disk):
        wait_for(lambda: trials_of(folder, TrialState.FAIL))
    output = wait_for_exit(process)
    faulty = failed_numbers(folder)
    assert faulty
    check(folder, 5, failed=faulty)
    for number in faulty:
        assert "disk is full" in one_line(output, f"trial {number} FAIL (")
