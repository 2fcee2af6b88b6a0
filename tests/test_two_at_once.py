"""Two commands that start concurrently in a store that does not exist yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import yaml
from sweep_processes import SPACE
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.promote.provenance import GATES
from vqlab.sweep.study.storage import opened_storage, storage_address
from vqlab.tracking import RunRecord, Tracker

pytestmark = pytest.mark.slow
SECONDS = 600


@dataclass
class Commands:
    """Commands in one folder with one pair of stores."""

    folder: Path
    stores: tuple[Path, Path]
    """`--mlruns` of the first and the second command: with PostgreSQL as on two machines."""

    def start(self, *words: str, store: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vqlab", *words, "--mlruns", str(self.stores[store])]
        return subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def train(self, recipe: str, store: int, *settings: str) -> subprocess.Popen[str]:
        data = ["--preset", "tiny", "-d", str(self.folder / "data"), "-c", "part"]
        return self.start(
            "train", recipe, "training.epochs=1", "data.image_size=32", *settings, *data,
            store=store,
        )  # fmt: skip

    def sweep(self, category: str, store: int, *options: str) -> subprocess.Popen[str]:
        space = ["--space", "space.yaml", "--output", category]
        return self.start("sweep", f"{category}.yaml", *space, *options, store=store)

    def runs(self) -> list[RunRecord]:
        """Return all runs, after asserting that they are complete and fully logged."""
        runs = Tracker.open(self.stores[0]).runs()
        assert {run.status for run in runs} == {"FINISHED"}
        assert not any({"vqlab.failure", "vqlab.not_logged"} & set(run.tags) for run in runs)
        return runs


def wait(*processes: subprocess.Popen[str]) -> list[str]:
    """Wait for the processes, which must exit with status 0; return their output."""
    printed = [process.communicate(timeout=SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return [out for out, _ in printed]


@pytest.fixture(params=["sqlite", "postgresql"])
def commands(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Commands:
    root = write_tiny_set(tmp_path / "data", ("part", "other"))
    for category in ("part", "other"):
        recipe = tiny_recipe(root, category, epochs=2)
        (tmp_path / f"{category}.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    if request.param == "sqlite":
        return Commands(tmp_path, (tmp_path / "mlruns",) * 2)
    import psycopg

    server = request.getfixturevalue("postgres")
    for variable in ("MLFLOW_TRACKING_URI", "VQLAB_STORAGE"):
        name = f"v{uuid.uuid4().hex}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        monkeypatch.setenv(variable, f"{server.rpartition('/')[0]}/{name}")
    return Commands(tmp_path, (tmp_path / "mlruns", tmp_path / "other_mlruns"))


@pytest.mark.parametrize("recipe", ["mean_image", "vqvae"])
def test_two_trainings(commands: Commands, recipe: str) -> None:
    wait(*(commands.train(recipe, store) for store in (0, 1)))
    first, second = commands.runs()
    assert first.metrics["test/image_auroc"] == second.metrics["test/image_auroc"]
    assert first.checkpoint().is_file() and second.checkpoint().is_file()


def test_two_sweeps(commands: Commands) -> None:
    categories = ("part", "other")
    wait(*(commands.sweep(name, i, "--n-trials", "2") for i, name in enumerate(categories)))
    kinds = [run.tags["vqlab.kind"] for run in commands.runs()]
    assert sorted(kinds) == ["study", "study", *["trial"] * 4]


def test_a_sweep_and_a_worker(commands: Commands) -> None:
    launcher = commands.sweep("part", 0, "--n-trials", "6", "--workers", "2")
    deadline = time.monotonic() + SECONDS
    studies: list[str] = []
    while not studies and time.monotonic() < deadline:
        time.sleep(0.3)
        if (commands.stores[0] / "mlflow.db").exists() or "VQLAB_STORAGE" in os.environ:
            with opened_storage(storage_address(commands.stores[0])) as storage:
                studies = optuna.get_all_study_names(storage)
    wait(launcher, commands.start("worker", *studies, store=1))
    trials = [run for run in commands.runs() if run.tags["vqlab.kind"] == "trial"]
    assert sorted(int(run.tags["vqlab.trial"]) for run in trials) == list(range(6))


def test_two_concurrent_first_promotions(commands: Commands) -> None:
    """The second is compared with the first and is not better."""
    wait(*(commands.train("mean_image", i, f"training.seed={i}") for i in (0, 1)))
    ids = [run.run_id for run in commands.runs()]
    promotions = [
        commands.start("promote", "-c", "part", "--run", run_id, store=i)
        for i, run_id in enumerate(ids)
    ]
    printed = [process.communicate(timeout=SECONDS) for process in promotions]
    assert sorted(process.returncode for process in promotions) == [0, 1], printed
    registry = Tracker.open(commands.stores[0]).registry
    assert [version.version for version in registry.versions("part")] == [1]
    champion = registry.champion("part")
    first = promotions.index(next(p for p in promotions if p.returncode == 0))
    assert champion.version == 1 and champion.run_id == ids[first]
    assert "gate improvement: Of image AUROC" in printed[1 - first][0]
    assert "passed" in champion.tags["vqlab.gates"]
    gates = json.loads(
        Tracker.open(commands.stores[0]).find(ids[first]).artifact(GATES).read_text()
    )
    assert gates["version"] == 1 and gates["replaced"] is None
