"""Train, promote, serve and delete on PostgreSQL, and on an MLflow server (on PostgreSQL if
installed) that also stores the artifacts."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from commands import call, refusal
from mlflow_server import free_port, serving
from postgres_server import NoPostgres, postgres_server
from tiny_set import baseline_recipe

from vqlab.promote.reproduce import score_images
from vqlab.run import Recording, resolve, run
from vqlab.tracking import Tracker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]
KILLED = Path(__file__).parents[1] / "promote" / "killed_process.py"
LOAD = """
import base64, json, sys
import mlflow, pandas
images = pandas.DataFrame({"image": [base64.b64decode(line) for line in sys.stdin]})
print(json.dumps(mlflow.pyfunc.load_model(sys.argv[1]).predict(images).to_dict("records")))
"""


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Start `mlflow server` on PostgreSQL, otherwise on SQLite; it also stores the artifacts. Yield
    its address."""
    with contextlib.ExitStack() as stack:
        try:
            database = stack.enter_context(postgres_server())
        except NoPostgres:
            database = f"sqlite:///{folder / 'server.db'}"
        yield stack.enter_context(server_on(database, folder))


@contextlib.contextmanager
def server_on(database: str, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", database,
        "--artifacts-destination", str(folder / "artifacts"), "--workers", "1",
    ]  # fmt: skip
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with serving(command, {**os.environ, **settings}, port, folder / "server.log") as address:
        yield address


@pytest.fixture(scope="module", params=["postgresql", "server"])
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    try:
        folder = tmp_path_factory.mktemp("server")
        postgres = request.param == "postgresql"
        with postgres_server() if postgres else mlflow_server(folder) as started:
            yield started
    except NoPostgres as reason:
        pytest.skip(str(reason))


@pytest.fixture
def mlruns(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The local folder; runs are in the store of MLFLOW_TRACKING_URI."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mlruns"


def served(uri: str, files: list[Path], folder: Path) -> list[dict[str, Any]]:
    """Predict the bytes of image files with the MLflow model in a new process."""
    process = subprocess.run(
        [sys.executable, "-c", LOAD, uri], cwd=folder, capture_output=True, text=True,
        input="\n".join(base64.b64encode(file.read_bytes()).decode() for file in files),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    rows: list[dict[str, Any]] = json.loads(process.stdout)
    return rows


@contextlib.contextmanager
def scoring_server(uri: str, folder: Path) -> Iterator[str]:
    """Start `mlflow models serve` with the store of MLFLOW_TRACKING_URI; yield its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local",
        "-h", "127.0.0.1", "-p", str(port), "-w", "1",
    ]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    source = str(Path(__file__).parents[2])
    settings = {"PATH": path, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    settings |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    log = folder / "scoring.log"
    with serving(command, {**os.environ, **settings}, port, log, "ping") as address:
        yield address


def posted(address: str, files: list[Path]) -> list[dict[str, Any]]:
    """Predict the bytes of image files with `mlflow models serve`."""
    records = [{"image": base64.b64encode(file.read_bytes()).decode()} for file in files]
    body = {"dataframe_records": records}
    answer = requests.post(f"{address}/invocations", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["predictions"]
    return rows


def test_promote_load_list_delete_and_rollback(mlruns: Path, root: Path) -> None:
    tracker = Tracker.open(mlruns)
    recipe = baseline_recipe(root)
    for name in ("first", "second", "third"):
        run(resolve(recipe), tracker, Recording(name=name, results=mlruns.parent / "results"))
    call("promote", "-c", "part", "--run", "first")
    killed = {
        "action": "promote",
        "run": "second",
        "mlruns": str(mlruns),
        "kill_after": "previous",
    }
    process = subprocess.run(
        [sys.executable, str(KILLED)], input=json.dumps(killed), text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    versions = json.loads(call("history", "part", "--json"))
    assert [(v["version"], v["state"]) for v in versions] == [(2, "registered"), (1, "champion")]
    assert tracker.registry.history("part") == [1]
    call("promote", "-c", "part", "--run", "second", "--force")
    assert "already the champion" in call("promote", "-c", "part", "--run", "second")
    versions = json.loads(call("history", "part", "--json"))
    assert [(v["version"], v["state"]) for v in versions] == [(2, "champion"), (1, "previous")]

    files = sorted((root / "part" / "test").glob("*/*.png"))[::3]
    rows = served("models:/vqlab-part@champion", files, mlruns.parent)
    paths = list(map(str, files))
    call("predict", "-m", "champion", "-c", "part", "-o", str(mlruns / "p"), *paths)
    lines = (mlruns / "p" / "scores.jsonl").read_text().splitlines()
    predicted = [json.loads(line) for line in lines]
    assert [(r["score"], r["verdict"]) for r in rows] == [
        (p["score"], p["verdict"]) for p in predicted
    ]

    with scoring_server("models:/vqlab-part@champion", mlruns.parent) as scoring:
        assert posted(scoring, files) == rows

    board = json.loads(call("leaderboard", "--json"))
    assert {row["name"]: row["champion"] for row in board} == {
        "first": False, "second": True, "third": False,
    }  # fmt: skip
    assert (
        board[0]["metrics"]["test/image_auroc"] == tracker.find("first").metrics["test/image_auroc"]
    )
    listed = json.loads(call("runs", "list", "--json", "--where", "test/image_auroc>=0"))
    assert [row["name"] for row in listed] == ["third", "second", "first"]
    third = tracker.find("third")
    printed = call("runs", "delete", "--detector", "mean_image", "--yes")
    assert "runs deleted: 1" in printed and "version 2 of vqlab-part" in printed
    assert [record.name for record in tracker.runs()] == ["second", "first"]
    assert not tracker._client.list_artifacts(third.run_id)

    assert "version 1 is the champion" in call("rollback", "-c", "part")
    repeated = served("models:/vqlab-part@champion", files[:1], mlruns.parent)
    assert repeated[0]["score"] == rows[0]["score"]
    assert "no champion before version 1" in refusal("rollback", "-c", "part")
