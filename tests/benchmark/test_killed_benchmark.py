"""Benchmarks with killed processes, with several workers, and on the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from sweep_processes import wait_for, wait_for_exit
from tiny_benchmark import write_benchmark

from vqlab.tracking import Tracker

pytestmark = pytest.mark.slow


def start_benchmark(folder: Path, root: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vqlab", "benchmark", "small.yaml", "--data", str(root)]
    return subprocess.Popen(
        [*command, *options], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def finished(tracker: Tracker) -> list[str]:
    return [run.run_id for run in tracker.runs(kinds=["train"]) if run.status == "FINISHED"]


@pytest.fixture
def folder(root: Path, tmp_path: Path) -> Path:
    """A benchmark of four trainings of seconds each."""
    path = write_benchmark(tmp_path, root, models=["each"])
    tree = yaml.safe_load(path.read_text())
    tree["recipes"] = {"vqvae": str(tmp_path / "vqvae.yaml")}
    tree["set"] = {"training.epochs": 60}
    path.write_text(yaml.safe_dump(tree))
    return tmp_path


def test_killed_benchmark_continues(folder: Path, root: Path) -> None:
    process = start_benchmark(folder, root)
    mlruns = folder / "mlruns"
    wait_for(lambda: (mlruns / "mlflow.db").exists())
    tracker = Tracker.open(mlruns)
    before = wait_for(lambda: finished(tracker))

    def training() -> bool:
        states = list(mlruns.glob("*/*/state.safetensors")) + list(
            mlruns.glob("**/state.safetensors")
        )
        return bool(states)

    wait_for(training)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    remaining = {run.run_id for run in tracker.runs(kinds=["train"])}
    output = wait_for_exit(start_benchmark(folder, root))
    runs = tracker.runs(kinds=["train"])
    assert [run.status for run in runs] == ["FINISHED"] * 4
    assert remaining <= {run.run_id for run in runs}, "the interrupted run was resumed"
    assert set(before) <= set(finished(tracker))
    assert "models done" in output and "report: results" in output
    (page,) = (folder / "results/benchmark").glob("*/report.html")
    assert "4 of 4 models are trained and tested" in page.read_text()
    assert [run.status for run in tracker.runs(kinds=["benchmark"])] == ["FINISHED"]


def test_killed_worker_of_two(folder: Path, root: Path) -> None:
    process = start_benchmark(folder, root, "--workers", "2")
    mlruns = folder / "mlruns"
    wait_for(lambda: (mlruns / "mlflow.db").exists())
    tracker = Tracker.open(mlruns)

    def worker() -> str | None:
        """Return the process of a run that has saved its state and can be resumed."""
        for run in tracker.runs(kinds=["train"]):
            saved = (mlruns / "runs" / run.run_id / "state.safetensors").exists()
            if run.status == "RUNNING" and saved:
                return run.tags["vqlab.pid"]
        return None

    os.kill(int(wait_for(worker)), signal.SIGKILL)
    output = wait_for_exit(process)
    assert len(finished(tracker)) == 4 and "4 of 4" in output
    repeated = wait_for_exit(start_benchmark(folder, root))
    assert "4 of 4 models done" in repeated and len(tracker.runs(kinds=["train"])) == 4
    listed = subprocess.run(
        [sys.executable, "-m", "vqlab", "studies", "list", "--csv"],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "benchmark-small-" in listed and "FINISHED" in listed
