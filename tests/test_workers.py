"""Several processes on one study: real workers, really killed."""

from __future__ import annotations

import os
import signal
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
import yaml
from one_study import load_study
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from tiny_set import tiny_recipe

from vqlab.sweep import LocalWorkers, join
from vqlab.sweep.study.record import record_of, row, was_interrupted
from vqlab.sweep.study.storage import StudyLock, open_storage, storage_address
from vqlab.tracking import Tracker
from vqlab.types import UserError

SPACE = {
    "validations": 0,
    "space": {
        "detector.codebook_size": {"choices": [8, 16]},
        "training.learning_rate": {"low": "3e-4", "high": "3e-3", "log": True},
    },
}
STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A folder to sweep in: a recipe of many short epochs, its space."""
    recipe = tiny_recipe(root, epochs=25)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path


def begin(folder: Path, trials: int, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vqlab", "sweep", "tiny.yaml", "--space", "space.yaml"]
    command += ["--n-trials", str(trials), "--workers", str(workers)]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> str:
    said, complaint = process.communicate(timeout=400)
    assert process.returncode == 0, complaint[-3000:]
    return said


@pytest.mark.parametrize(("requested", "threads"), [("3", "3"), (None, str(os.cpu_count()))])
def test_a_worker_has_the_threads_that_the_user_asks_for(
    requested: str | None, threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its share of the cores, which is all of them for the only worker."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if requested:
        monkeypatch.setenv("OMP_NUM_THREADS", requested)
    workers = LocalWorkers(1, tmp_path)
    workers.start("no-such-study")
    try:
        worker = workers._workers[0]
        assert worker is not None
        command = [str(word) for word in worker.args]  # type: ignore[union-attr]
        assert command[command.index("--threads") + 1] == threads
    finally:
        workers.stop()


_OPEN: dict[str, RDBStorage] = {}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Stores that a test looked at are closed, which psycopg insists on."""
    yield
    for storage in _OPEN.values():
        storage.remove_session()
        storage.engine.dispose()
    _OPEN.clear()


def the_study(folder: Path) -> optuna.Study:
    address = storage_address(folder / "mlruns")
    if address not in _OPEN:
        _OPEN[address] = open_storage(address)
    storage = _OPEN[address]
    (name,) = optuna.get_all_study_names(storage)
    return load_study(storage, name)


def wait_for(look: Callable[[], Any], seconds: float = 200) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("nothing came of it")


def under_way(folder: Path, any_store: bool = False) -> list[optuna.trial.FrozenTrial]:
    """Running trials that have trained for some epochs."""
    if not any_store and not (folder / "mlruns" / "optuna.db").exists():
        return []
    try:
        trials = the_study(folder).get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    except ValueError:  # the study is not there yet
        return []
    return [trial for trial in trials if "progress" in trial.user_attrs]


def lives(process: psutil.Process) -> bool:
    """Not so a zombie, which nobody may have asked how it ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def check_all_agrees(
    folder: Path, target: int, failed: Collection[int] = (), without_run: Collection[int] = ()
) -> optuna.Study:
    """Target reached, each interrupted trial repeated once, MLflow says what Optuna says.

    failed: numbers of the trials that failed by themselves, each for a reason.
    without_run: numbers of trials that may have no run in MLflow.
    """
    study = the_study(folder)
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    assert states["COMPLETE"] + states["PRUNED"] == target
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    repeats = Counter(record_of(t).retry_of for t in trials if "retry_of" in t.user_attrs)
    ended = {t.number for t in trials if t.state == TrialState.FAIL}
    assert repeats == {number: 1 for number in ended if number not in failed}
    by_themselves = {number for number in ended if not was_interrupted(trials[number])}
    assert by_themselves == set(failed)
    tracker = Tracker.open(folder / "mlruns")
    assert not [run.name for run in tracker.runs() if run.status == "RUNNING"]
    runs = tracker.runs(tags={"vqlab.kind": "trial"})
    for run in runs:
        trial = trials[int(run.tags["vqlab.trial"])]
        assert (run.tags["optuna.state"], run.status) == (
            trial.state.name, STATUS[trial.state.name],
        )  # fmt: skip
        assert run.tags.get("vqlab.reason", "") == row(trial).reason
    shown = {int(run.tags["vqlab.trial"]) for run in runs}
    assert shown >= by_themselves - set(without_run)
    complete = [record_of(t).run_id for t in trials if t.state == TrialState.COMPLETE]
    assert set(complete) <= {run.run_id for run in runs}
    return study


@pytest.mark.slow
def test_a_killed_worker_costs_one_retry(folder: Path) -> None:
    sweep = begin(folder, trials=3, workers=2)
    trial = wait_for(lambda: under_way(folder))[0]
    os.kill(int(trial.user_attrs["worker"]["vqlab.pid"]), signal.SIGKILL)
    said = end(sweep)
    assert "best run" in said and "3 of 3" in said
    trials = check_all_agrees(folder, 3).get_trials(deepcopy=False)
    (retry,) = [t for t in trials if record_of(t).retry_of == trial.number]
    assert retry.params == trials[trial.number].params
    assert len({t.user_attrs["worker"]["vqlab.pid"] for t in trials}) >= 2


@pytest.mark.slow
def test_workers_stop_when_their_launcher_is_killed(folder: Path) -> None:
    sweep = begin(folder, trials=4, workers=2)
    trial = wait_for(lambda: under_way(folder))[0]
    launcher = psutil.Process(sweep.pid)
    workers = [p for p in launcher.children() if "worker" in p.cmdline()]
    assert len(workers) == 2
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    wait_for(lambda: not any(lives(p) for p in workers), seconds=60)
    stopped = the_study(folder).get_trials(deepcopy=False)[trial.number]
    assert stopped.state == TrialState.FAIL and was_interrupted(stopped)
    end(begin(folder, trials=4, workers=1))
    check_all_agrees(folder, 4)


@pytest.mark.slow
def test_ctrl_c_ends_all_within_seconds(folder: Path) -> None:
    sweep = begin(folder, trials=4, workers=2)
    wait_for(lambda: under_way(folder))
    workers = psutil.Process(sweep.pid).children()
    os.kill(sweep.pid, signal.SIGINT)
    _, complaint = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "the same command goes on from there" in complaint
    assert not any(lives(p) for p in workers)
    assert not [r for r in Tracker.open(folder / "mlruns").runs() if r.status == "RUNNING"]
    end(begin(folder, trials=4, workers=2))
    check_all_agrees(folder, 4)


@pytest.mark.slow
def test_another_worker_joins(folder: Path) -> None:
    """With enough trials that some are left when it has imported what it needs."""
    sweep = begin(folder, trials=48, workers=1)
    wait_for(lambda: under_way(folder))
    name = the_study(folder).study_name
    joined = subprocess.run(
        [sys.executable, "-m", "vqlab", "worker", name, "--threads", "1"],
        cwd=folder, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert joined.returncode == 0, joined.stderr[-2000:]
    end(sweep)
    trials = check_all_agrees(folder, 48).get_trials(deepcopy=False)
    assert len({t.user_attrs["worker"]["vqlab.pid"] for t in trials}) == 2


def test_a_worker_of_no_study_is_told_so(tmp_path: Path) -> None:
    tracker = Tracker.open(tmp_path / "mlruns")
    with pytest.raises(UserError, match="there is no study 'cable-vqvae-00000000'"):
        join("cable-vqvae-00000000", tracker)


COUNTED = """
import sys
import optuna
from vqlab.sweep.study.storage import open_storage
from vqlab.sweep.study.studies import open_studies
from vqlab.sweep.workers.loop import run_trials
from vqlab.sweep.workers.task import BEGUN, SEED, TARGET
optuna.logging.set_verbosity(optuna.logging.ERROR)
storage = open_storage(sys.argv[1])
studies = open_studies(storage, "s", [""], ["maximize"])
for name, value in {TARGET: 100, SEED: 0, BEGUN: 0}.items():
    studies.set_attribute(name, value)
run = lambda trial: trial.suggest_float("x", 0, 1)
run_trials(studies, storage, run, next_recipe=str)
"""
"""A worker's own loop, with trials that take no time."""


@pytest.mark.slow
def test_four_workers_make_a_hundred_trials_and_no_more(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    command = [sys.executable, "-c", COUNTED, address]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    for worker in workers:
        _, complaint = worker.communicate(timeout=300)
        assert worker.returncode == 0, complaint.decode()[-2000:]
    study = load_study(open_storage(address), "s")
    trials = study.get_trials(deepcopy=False)
    assert [t.number for t in trials] == list(range(100))
    assert all(t.state == TrialState.COMPLETE for t in trials)
    assert len({t.params["x"] for t in trials}) == 100
    assert len({t.user_attrs["worker"]["vqlab.pid"] for t in trials}) == 4


@pytest.mark.slow
def test_one_turn_at_a_time(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    waiting = (
        "import sys; from vqlab.sweep.study.storage import StudyLock, open_storage\n"
        "with StudyLock(open_storage(sys.argv[1]), 's'): print('mine', flush=True)"
    )
    storage = open_storage(address)
    with StudyLock(storage, "s") as turn:
        other = subprocess.Popen(
            [sys.executable, "-c", waiting, address], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=8)
        turn.end()
        turn.end()
        said, _ = other.communicate(timeout=60)
    assert said == "mine\n" and other.returncode == 0
