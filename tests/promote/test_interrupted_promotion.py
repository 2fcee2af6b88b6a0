"""Promotions and rollbacks whose process is killed at any of its writes to the store."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_set import baseline_recipe

from vqlab.config import merge, nest
from vqlab.predict import load_model
from vqlab.promote import history, promote, rollback
from vqlab.promote.provenance import GATES, REPORT
from vqlab.promote.reproduce import score_images
from vqlab.run import Recording, resolve, run
from vqlab.tracking import PREVIOUS, Tracker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]
PROGRAM = Path(__file__).with_name("killed_process.py")
MOST_WRITES = 200
Act = Callable[..., int]


@pytest.fixture(scope="module")
def act() -> Iterator[Act]:
    """Run a task in a separate process; return its exit status."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    with process, process.stdin, process.stdout:

        def answer(folder: Path, action: str, kill_after: int = 0, **task: Any) -> int:
            task |= {"mlruns": str(folder / "mlruns"), "action": action, "kill_after": kill_after}
            print(json.dumps(task), file=process.stdin, flush=True)
            return int(json.loads(process.stdout.readline()))

        yield answer
        process.stdin.close()


@pytest.fixture(scope="module")
def original(
    root: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A store with a champion, another run to promote, and an untested run."""
    folder = tmp_path_factory.mktemp("original") / "store"
    shutil.copytree(empty_store, folder / "mlruns")
    tracker = Tracker.open(folder / "mlruns")
    recipe = merge(baseline_recipe(root), nest("evaluation.resamples", 0))
    first = run(resolve(recipe), tracker, Recording(name="first", results=folder / "results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
        assert promote(tracker, "part", ref=first.run_id).promoted
    other = merge(recipe, nest("detector.floor", 0.05))
    second = run(resolve(other), tracker, Recording(name="second", results=folder / "results"))
    run(resolve(other), tracker, Recording(name="untested"), test=False)
    return folder, second.run_id


@pytest.fixture(scope="module")
def promoted(act: Act, original: tuple[Path, str]) -> Path:
    """A copy of the store in which the run was promoted without interruption."""
    folder, run_id = original
    copy = folder.with_name("promoted")
    shutil.copytree(folder, copy)
    assert act(copy, "promote", run=run_id) == 0
    return copy


def kill_at_every_write(
    act: Act, original: Path, tmp_path: Path, action: str, **task: Any
) -> Iterator[Path]:
    """Yield a copy of the store per write of the action, with the process killed after that
    write."""
    for number in range(1, MOST_WRITES):
        folder = tmp_path / f"{action}-{number}"
        shutil.copytree(original, folder)
        code = act(folder, action, number, **task)
        if code == 0:  # all writes were covered: the action completed
            assert number > 4
            return
        assert code == -signal.SIGKILL
        yield folder
        shutil.rmtree(folder)
    pytest.fail("the action does not complete")


def states(tracker: Tracker) -> dict[int, str]:
    return {version.version: version.state for version in history(tracker, "part")}


def check_promoted(tracker: Tracker, run_id: str) -> None:
    """Assert that the run is version 2 and the only champion, with everything recorded."""
    registry, client = tracker.registry, tracker._client
    champion = registry.champion("part")
    assert (champion.version, champion.run_id) == (2, run_id)
    assert states(tracker) == {1: "previous", 2: "champion"}
    assert registry.history("part") == [1, 2]
    record, newest = tracker.find(run_id), history(tracker, "part")[0]
    assert newest.replaced == 1 and "passed" in newest.gates and newest.reason
    assert json.loads(record.artifact(GATES).read_text())["version"] == 2
    assert "</html>" in record.artifact(REPORT).read_text()
    stored = client.get_model_version("vqlab-part", "2")
    assert "| promise |" in stored.description
    model = client.get_logged_model(champion.tags["vqlab.model_id"])
    assert model.status == "READY"
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "vqlab-part", "version": 2}]
    outputs = client.get_run(run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]


@pytest.mark.usefixtures("promoted")
def test_killed_promotion_can_be_repeated(
    act: Act, original: tuple[Path, str], root: Path, tmp_path: Path
) -> None:
    folder, run_id = original
    image = next((root / "part" / "test" / "good").iterdir())
    champions = []
    for copy in kill_at_every_write(act, folder, tmp_path, "promote", run=run_id):
        tracker = Tracker.open(copy / "mlruns")
        champion = tracker.registry.champion("part")
        if champion.version == 2:
            check_promoted(tracker, run_id)
        else:
            now = states(tracker)
            assert now in ({1: "champion"}, {1: "champion", 2: "registered"})
            assert tracker.registry.history("part") == [1]
            candidate = history(tracker, "part")[0]
            assert candidate.version == 1 or not (candidate.promoted_at or candidate.gates)
        champions.append(champion.version)
        assert load_model("champion", "part", tracker.root).score(image).verdict
        assert act(copy, "promote", run=run_id) == 0
        check_promoted(tracker, run_id)
        assert rollback(tracker, "part").version == 1
        assert states(tracker) == {1: "champion", 2: "rolled back"}
    assert champions == sorted(champions) and set(champions) == {1, 2}


def test_killed_rollback_can_be_repeated(
    act: Act, original: tuple[Path, str], promoted: Path, tmp_path: Path
) -> None:
    _, run_id = original
    for copy in kill_at_every_write(act, promoted, tmp_path, "rollback"):
        tracker = Tracker.open(copy / "mlruns")
        if tracker.registry.champion("part").version == 2:
            check_promoted(tracker, run_id)
            assert act(copy, "rollback") == 0
        assert states(tracker) == {1: "champion", 2: "rolled back"}
        assert tracker.registry.history("part") == [1]
        assert act(copy, "promote", run=run_id) == 0
        check_promoted(tracker, run_id)
        assert tracker.registry.by_alias("part", PREVIOUS)


@pytest.mark.usefixtures("promoted")
@pytest.mark.parametrize("kill_after", [2, 4, 8])
def test_killed_evaluation_of_an_untested_run(
    act: Act, original: tuple[Path, str], tmp_path: Path, kill_after: int
) -> None:
    """Metrics of an interrupted evaluation are not considered complete."""
    copy = tmp_path / "store"
    shutil.copytree(original[0], copy)
    assert act(copy, "promote", kill_after, run="untested") == -signal.SIGKILL
    tracker = Tracker.open(copy / "mlruns")
    assert tracker.registry.champion("part").version == 1 and states(tracker) == {1: "champion"}
    assert act(copy, "promote", run="untested") == 0
    check_promoted(tracker, tracker.find("untested").run_id)
    assert tracker.find("untested").artifact("results/part/scores.csv").is_file()
