"""Deletion of runs with their artifacts; runs of versions are kept, and a killed deletion can be
completed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from commands import call, refusal, start_program
from tracked_runs import start

from vqlab.errors import UserError
from vqlab.tracking import CHECKPOINT, Tracker
from vqlab.tracking.deletion import delete_runs


def stored(tracker: Tracker, name: str) -> tuple[str, Path]:
    with start(tracker, name) as run:
        run.log_text("weights", CHECKPOINT)
    return run.id, run.artifact("")


def test_runs_are_deleted_with_their_artifacts(tracker: Tracker) -> None:
    (first, folder), (_, other_folder) = stored(tracker, "a"), stored(tracker, "b")
    arguments = ["runs", "delete", first, "--mlruns", str(tracker.root)]
    call(*arguments, answer="n\n", status=1)
    assert (folder / CHECKPOINT).exists()
    assert "runs deleted: 1" in call(*arguments, "--yes")
    assert [run.name for run in tracker.runs()] == ["b"]
    assert not (folder / CHECKPOINT).exists() and (other_folder / CHECKPOINT).exists()
    listed = call("runs", "list", "--csv", "--mlruns", tracker.root)
    assert len(listed.splitlines()) == 2 and ",b," in listed


def test_runs_of_versions_are_never_deleted(tracker: Tracker) -> None:
    (first, folder), (other, _) = stored(tracker, "a"), stored(tracker, "b")
    tracker.registry.register(first, CHECKPOINT, "cable")
    with pytest.raises(UserError, match="must not be deleted: it is version 1 of vqlab-cable"):
        delete_runs(tracker, [tracker.find(other), tracker.find(first)])
    running = start(tracker, "running")
    with pytest.raises(UserError, match="is being written"):
        delete_runs(tracker, [tracker.find(other), tracker.find(running.id)])
    running.finish()
    assert len(tracker.runs()) == 3 and (folder / CHECKPOINT).exists()


def test_killed_deletion_is_completed_by_the_next_one(tracker: Tracker) -> None:
    (first, folder), (second, other) = stored(tracker, "a"), stored(tracker, "b")
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom vqlab.tracking import Tracker, deletion\n"
        "deletion._delete_artifacts = lambda *rest: os.kill(os.getpid(), 9)\n"
        "tracker = Tracker.open(Path(sys.argv[1]))\n"
        "deletion.delete_runs(tracker, [tracker.find(sys.argv[2])])\n"
    )
    killed = start_program(program, tracker.root, first, cwd=tracker.root).result()
    assert killed.status == -signal.SIGKILL
    # runs are never listed without their artifacts
    assert [run.name for run in tracker.runs()] == ["b"]
    assert (folder / CHECKPOINT).exists()
    delete_runs(tracker, [tracker.find(second)])
    assert not (folder / CHECKPOINT).exists() and not (other / CHECKPOINT).exists()


def test_runs_selected_by_filters_are_deleted(tracker: Tracker) -> None:
    folders = []
    for number, detector in enumerate(("vqvae", "vqvae", "vqflow")):
        with start(tracker, f"r{number}", detector=detector, category="cable") as run:
            run.log_metrics({"test/image_auroc": 0.5 + number / 10})
            run.log_text("weights", CHECKPOINT)
        folders.append(run.artifact("") / CHECKPOINT)
        if number == 0:
            tracker.registry.register(run.id, CHECKPOINT, "cable")
    running = start(tracker, "running", detector="vqvae", category="cable")

    delete = ("runs", "delete", "--mlruns", tracker.root)
    assert "got neither" in refusal(*delete, "--yes")
    assert "got neither" in refusal(*delete, "-c", "all", "-y")
    assert "got both" in refusal(*delete, "r1", "--detector", "vqvae", "--yes")
    assert "no run matches" in call(*delete, "--detector", "padim", "--yes")
    delete += ("--detector", "vqvae", "-c", "cable")
    printed = call(*delete, answer="n\n", status=1)
    assert "to be deleted, with their artifacts: 1" in printed and "r1" in printed
    assert "it is version 1 of vqlab-cable" in printed and "it is being written" in printed
    assert len(tracker.runs()) == 4
    assert "runs deleted: 1" in call(*delete, "--where", "test/image_auroc<0.7", "--yes")
    assert sorted(run.name for run in tracker.runs()) == ["r0", "r2", "running"]
    assert [folder.exists() for folder in folders] == [True, False, True]
    running.finish()


def test_models_of_deleted_runs_are_deleted(tracker: Tracker) -> None:
    """A run whose version was deleted in the MLflow UI still has the copy of its checkpoint."""
    (first, _), (second, _) = stored(tracker, "a"), stored(tracker, "b")
    versions = [
        tracker.registry.register(run_id, CHECKPOINT, "cable") for run_id in (first, second)
    ]
    ids = [version.tags["vqlab.model_id"] for version in versions]
    places = [tracker._client.get_logged_model(each).artifact_location for each in ids]
    folders = [Path(place.removeprefix("file://")) for place in places]
    tracker._client.delete_model_version("vqlab-cable", "1")
    delete_runs(tracker, [tracker.find(first)])
    assert [(folder / "MLmodel").exists() for folder in folders] == [False, True]
    experiment = tracker.find(second).experiment
    experiment_id = tracker._client.get_experiment_by_name(experiment).experiment_id
    models = tracker._client.search_logged_models([experiment_id])
    assert [model.model_id for model in models] == ids[1:]
    assert tracker.registry.checkpoint(versions[1]).read_text() == "weights"
