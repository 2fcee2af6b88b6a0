"""Deletion of a study and of the runs of its trials; a killed deletion can be completed."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from commands import call, refusal, start_program

from vqlab.errors import UserError
from vqlab.sweep.study.deletion import delete_sweep, list_sweeps, runs_of
from vqlab.sweep.study.storage import opened_storage, storage_address
from vqlab.sweep.study.studies import open_studies
from vqlab.tracking import CHECKPOINT, Tracker


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.delenv("VQLAB_STORAGE", raising=False)
    shutil.copytree(empty_store, tmp_path / "mlruns")
    tracker = Tracker.open(tmp_path / "mlruns")
    with opened_storage(storage_address(tracker.root)) as storage:
        for name, recipes in (("one", [""]), ("both", ["vqvae", "vqflow"])):
            studies = open_studies(storage, name, recipes, ["maximize"])
            for recipe in recipes:
                studies[recipe].add_trial(optuna.trial.create_trial(value=0.5))
                tags = {"vqlab.study": name, "vqlab.kind": "trial", "vqlab.recipe": recipe}
                with tracker.start(experiment="cable", name=f"{name}{recipe}", tags=tags) as run:
                    run.log_text("weights", CHECKPOINT)
    return tracker


def names(tracker: Tracker) -> list[tuple[str, int, int]]:
    with opened_storage(storage_address(tracker.root)) as storage:
        sweeps = [(s.name, len(s.studies), s.trials) for s in list_sweeps(storage)]
    return sorted(sweeps)


def test_studies_are_listed_by_category_detector_and_status(tracker: Tracker) -> None:
    for name, category, detector, status in (
        ("one", "cable", "vqvae", "KILLED"), ("both", "nut", "vqvae+vqflow", "FINISHED"),
    ):  # fmt: skip
        tags = {
            "vqlab.study": name, "vqlab.kind": "study", "vqlab.category": category,
            "vqlab.detector": detector,
        }  # fmt: skip
        tracker.start(experiment=category, name=name, tags=tags).finish(status)

    def listed(*words: str) -> list[dict[str, Any]]:
        printed = call("studies", "list", *words, "--json", "--mlruns", tracker.root)
        rows: list[dict[str, Any]] = json.loads(printed)
        return rows

    def chosen(*words: str) -> list[str]:
        return sorted(row["name"] for row in listed(*words))

    assert chosen() == ["both", "one"] and chosen("--older-than", "1h") == []
    assert chosen("-c", "nut") == ["both"] == chosen("--detector", "vqflow")
    assert chosen("--detector", "vqvae") == ["both", "one"]
    assert chosen("--status", "KILLED", "--detector", "vqvae") == ["one"]
    (both,) = listed("-c", "nut")
    del both["started"]
    assert both == {
        "name": "both", "category": "nut", "detector": "vqvae+vqflow", "status": "FINISHED",
        "studies": ["both-vqvae", "both-vqflow"], "trials": 2,
    }  # fmt: skip
    arguments = ["studies", "list", "-c", "nut", "--mlruns", str(tracker.root)]
    header, row = call(*arguments, "--csv").splitlines()
    assert header == "name,category,detector,status,studies,trials,started"
    assert row.startswith("both,nut,vqvae+vqflow,FINISHED,both-vqvae both-vqflow,2,")
    assert "FINISHED" in call(*arguments)
    assert "mutually exclusive" in refusal(*arguments, "--csv", "--json")


def test_study_is_deleted_with_its_runs(tracker: Tracker) -> None:
    assert names(tracker) == [("both", 2, 2), ("one", 1, 1)]
    folders = [run.artifact(CHECKPOINT) for run in runs_of(tracker, "both")]
    arguments = ["studies", "delete", "both", "--mlruns", str(tracker.root)]
    call(*arguments, answer="n\n", status=1)
    assert len(names(tracker)) == 2
    assert "deleted study both; runs deleted: 2" in call(*arguments, "--yes")
    assert names(tracker) == [("one", 1, 1)] and [r.name for r in tracker.runs()] == ["one"]
    assert len(folders) == 2 and not any(folder.exists() for folder in folders)


def test_study_with_a_registered_run_is_not_deleted(tracker: Tracker) -> None:
    run = runs_of(tracker, "both")[0]
    tracker.registry.register(run.run_id, CHECKPOINT, "cable")
    with opened_storage(storage_address(tracker.root)) as storage:
        with pytest.raises(UserError, match="must not be deleted"):
            delete_sweep(tracker, storage, "both")
    assert len(names(tracker)) == 2 and len(runs_of(tracker, "both")) == 2


def test_killed_deletion_is_completed_by_repeating_it(tracker: Tracker) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nimport optuna\n"
        "optuna.delete_study = lambda **rest: os.kill(os.getpid(), 9)\n"
        "from vqlab.sweep.study.deletion import delete_sweep\n"
        "from vqlab.sweep.study.storage import opened_storage, storage_address\n"
        "from vqlab.tracking import Tracker\n"
        "tracker = Tracker.open(Path(sys.argv[1]))\n"
        "with opened_storage(storage_address(tracker.root)) as storage:\n"
        "    delete_sweep(tracker, storage, 'both')\n"
    )
    killed = start_program(program, tracker.root, cwd=tracker.root).result()
    assert killed.status == -signal.SIGKILL and len(names(tracker)) == 2
    with opened_storage(storage_address(tracker.root)) as storage:
        delete_sweep(tracker, storage, "both")
    assert names(tracker) == [("one", 1, 1)] and [r.name for r in tracker.runs()] == ["one"]
