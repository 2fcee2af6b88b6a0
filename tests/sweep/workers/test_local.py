"""Several worker processes on one study, some of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from one_study import load_study
from optuna.trial import TrialState
from sweep_processes import (  # noqa: F401
    COUNTED,
    SPACE,
    assert_stores_agree,
    closed,
    is_alive,
    running_trials,
    start_sweep,
    study_in,
    wait_for,
    wait_for_exit,
)
from tiny_set import tiny_recipe

from vqlab.sweep import LocalWorkers, join
from vqlab.sweep.study.record import record_of, was_interrupted
from vqlab.sweep.study.storage import open_storage, study_lock
from vqlab.tracking import Tracker
from vqlab.types import UserError


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A folder with a recipe of many short epochs and its space."""
    recipe = tiny_recipe(root, epochs=25)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    return tmp_path


@pytest.mark.parametrize(("requested", "threads"), [("3", "3"), (None, str(os.cpu_count()))])
def test_worker_uses_the_requested_threads(
    requested: str | None, threads: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default is its share of the cores, which is all of them for a single worker."""
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


@pytest.mark.slow
def test_killed_worker_causes_one_retry(folder: Path) -> None:
    sweep = start_sweep(folder, trials=3, workers=2)
    trial = wait_for(lambda: running_trials(folder))[0]
    os.kill(int(trial.user_attrs["worker"]["vqlab.pid"]), signal.SIGKILL)
    output = wait_for_exit(sweep)
    assert "best run" in output and "3 of 3" in output
    trials = assert_stores_agree(folder, 3).get_trials(deepcopy=False)
    (retry,) = [t for t in trials if record_of(t).retry_of == trial.number]
    assert retry.params == trials[trial.number].params
    assert len({t.user_attrs["worker"]["vqlab.pid"] for t in trials}) >= 2


@pytest.mark.slow
def test_workers_stop_when_the_launcher_is_killed(folder: Path) -> None:
    sweep = start_sweep(folder, trials=4, workers=2)
    trial = wait_for(lambda: running_trials(folder))[0]
    launcher = psutil.Process(sweep.pid)
    workers = [p for p in launcher.children() if "worker" in p.cmdline()]
    assert len(workers) == 2
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    wait_for(lambda: not any(is_alive(p) for p in workers), seconds=60)
    stopped = study_in(folder).get_trials(deepcopy=False)[trial.number]
    assert stopped.state == TrialState.FAIL and was_interrupted(stopped)
    wait_for_exit(start_sweep(folder, trials=4, workers=1))
    assert_stores_agree(folder, 4)


@pytest.mark.slow
def test_ctrl_c_stops_all_workers_within_seconds(folder: Path) -> None:
    sweep = start_sweep(folder, trials=4, workers=2)
    wait_for(lambda: running_trials(folder))
    workers = psutil.Process(sweep.pid).children()
    os.kill(sweep.pid, signal.SIGINT)
    _, complaint = sweep.communicate(timeout=60)
    assert sweep.returncode == 130 and "run the same command to resume" in complaint
    assert not any(is_alive(p) for p in workers)
    assert not [r for r in Tracker.open(folder / "mlruns").runs() if r.status == "RUNNING"]
    wait_for_exit(start_sweep(folder, trials=4, workers=2))
    assert_stores_agree(folder, 4)


@pytest.mark.slow
def test_additional_worker_joins(folder: Path) -> None:
    """There are enough trials to leave some after the worker has imported its libraries."""
    sweep = start_sweep(folder, trials=48, workers=1)
    wait_for(lambda: running_trials(folder))
    name = study_in(folder).study_name
    joined = subprocess.run(
        [sys.executable, "-m", "vqlab", "worker", name, "--threads", "1"],
        cwd=folder, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert joined.returncode == 0, joined.stderr[-2000:]
    wait_for_exit(sweep)
    trials = assert_stores_agree(folder, 48).get_trials(deepcopy=False)
    assert len({t.user_attrs["worker"]["vqlab.pid"] for t in trials}) == 2


def test_worker_without_study_exits_with_an_error(empty_mlruns: Path) -> None:
    tracker = Tracker.open(empty_mlruns)
    with pytest.raises(UserError, match="there is no study 'cable-vqvae-00000000'"):
        join("cable-vqvae-00000000", tracker)


@pytest.mark.slow
def test_four_workers_run_exactly_one_hundred_trials(tmp_path: Path) -> None:
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
def test_lock_is_exclusive(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'optuna.db'}"
    waiting = (
        "import sys; from vqlab.sweep.study.storage import study_lock, open_storage\n"
        "with study_lock(open_storage(sys.argv[1]), 's'): print('mine', flush=True)"
    )
    storage = open_storage(address)
    with study_lock(storage, "s"):
        other = subprocess.Popen(
            [sys.executable, "-c", waiting, address], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=8)
    output, _ = other.communicate(timeout=60)
    assert output == "mine\n" and other.returncode == 0
