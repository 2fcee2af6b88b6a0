"""The MLflow model of a registered version: loaded in a new process, served, and moved."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import start_program
from mlflow_server import free_port, serving
from PIL import Image
from tiny_set import baseline_recipe, write_tiny_set
from tracked_runs import start

from vqlab.model import Model
from vqlab.run import Recording, evaluate_model, resolve, run
from vqlab.tracking import CHECKPOINT, Tracker

pytestmark = pytest.mark.usefixtures("blank_figures")
LOAD = """
import base64, json, sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
images = [base64.b64decode(line) for line in sys.stdin]
assert "pickle" not in str(model.loader_module), model.loader_module
print(json.dumps(model.predict(pandas.DataFrame({"image": images})).to_dict("records")))
"""


@pytest.fixture(scope="module")
def trained(root: Path, store: Tracker, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tested run, registered as the champion of `part`."""
    recipe = baseline_recipe(root)
    results = tmp_path_factory.mktemp("results")
    outcome = run(resolve(recipe), store, Recording(name="trained", results=results))
    registry = store.registry
    registry.set_champion(registry.register(outcome.run_id, CHECKPOINT, "part"), None)
    return outcome.run_id


@pytest.fixture(scope="module")
def images(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Image files: test images, 16-bit colours, and a file that is not an image."""
    files = sorted((root / "part" / "test").glob("*/*.png"))
    deep = tmp_path_factory.mktemp("deep") / "deep.tif"
    Image.fromarray(np.full((40, 50), 40_000, np.uint16)).save(deep)
    return [*(file.read_bytes() for file in (files[0], files[-1], deep)), b"no image"]


def environment(store: Tracker) -> dict[str, str]:
    uri = f"sqlite:///{store.root / 'mlflow.db'}"
    here = str(Path(__file__).parents[2])
    return {
        **os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": here,
    }  # fmt: skip


def expected(store: Tracker, images: list[bytes]) -> list[tuple[float, float | None, str]]:
    model = Model.load(store.champion("part").checkpoint, "cpu")
    rows = []
    for number, content in enumerate(images[:-1]):
        file = store.root / f"image{number}"
        file.write_bytes(content)
        prediction = model.score(file)
        rows.append((prediction.score, prediction.p_value, prediction.verdict))
    return rows


def check(rows: list[dict[str, Any]], store: Tracker, images: list[bytes]) -> None:
    assert [(row["score"], row["p_value"], row["verdict"]) for row in rows[:-1]] == [
        (pytest.approx(score, rel=1e-6), p_value, verdict)
        for score, p_value, verdict in expected(store, images)
    ]
    rejected = [row for row in rows if row["verdict"] == "reject"]
    assert rejected and all(row["regions"][0]["rank"] == 1 for row in rejected)
    last = rows[-1]
    assert last["verdict"] == "unreadable" and last["score"] is None
    assert last["reason"] == "unsupported or corrupt image"


@pytest.mark.slow
def test_model_scores_in_a_new_process(
    trained: str, store: Tracker, images: list[bytes], tmp_path: Path
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", LOAD, "models:/vqlab-part@champion"],
        input="\n".join(base64.b64encode(content).decode() for content in images),
        env=environment(store), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    check(json.loads(process.stdout), store, images)
    assert "Warning" not in process.stderr and not list(tmp_path.iterdir())


def test_content_of_a_version(trained: str, store: Tracker) -> None:
    version = store.registry.versions("part")[0]
    model = store._client.get_logged_model(version.tags["vqlab.model_id"])
    assert str(model.status) == "READY" and model.source_run_id == trained
    folder = Path(model.artifact_location.removeprefix("file://"))
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {"MLmodel", "served_model.py", "artifacts/model.safetensors"} <= names
    assert {"input_example.json", "serving_input_example.json"} <= names
    assert not [name for name in names if name.endswith(".pkl")]
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert "torch" in {line.partition("==")[0] for line in requirements}
    assert all("==" in line and "+" not in line for line in requirements)
    measured = {metric.key: metric for metric in model.metrics}
    record = store.find(trained)
    data = measured["test/image_auroc"]
    assert data.value == record.metrics["test/image_auroc"] and "part" in data.dataset_name
    assert data.dataset_digest == record.tags["vqlab.data_fingerprint"][:32]


def test_evaluation_on_other_data_adds_metrics(
    trained: str, store: Tracker, tmp_path: Path
) -> None:
    other = write_tiny_set(tmp_path / "other", seed=5)
    evaluate_model(Model.load(store.champion("part").checkpoint), other, store, tmp_path)
    version = store.registry.versions("part")[0]
    model = store._client.get_logged_model(version.tags["vqlab.model_id"])
    digests = {metric.dataset_digest for metric in model.metrics}
    assert len(digests) == 2 and store.find(trained).tags["vqlab.data_fingerprint"][:32] in digests


def test_killed_registration_leaves_no_version(tracker: Tracker, tmp_path: Path) -> None:
    """A process is killed while it stores the model: no version exists, and the next registration
    is complete."""
    with start(tracker, "run") as tracked:
        tracked.log_text("weights", CHECKPOINT)
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom vqlab.tracking import CHECKPOINT, Tracker\n"
        "from vqlab.tracking import logged_model\n"
        "logged_model._save = lambda *rest: os.kill(os.getpid(), 9)\n"
        "tracker = Tracker.open(Path(sys.argv[1]))\n"
        "tracker.registry.register(sys.argv[2], CHECKPOINT, 'cable')\n"
    )
    killed = start_program(program, tracker.root, tracked.id, cwd=tmp_path).result()
    assert killed.status == -signal.SIGKILL
    assert tracker.registry.versions("cable") == []
    (pending,) = models(tracker, tracked.experiment_id)
    version = tracker.registry.register(tracked.id, CHECKPOINT, "cable")
    (model,) = models(tracker, tracked.experiment_id)
    assert model.model_id == version.tags["vqlab.model_id"] != pending.model_id
    next_version = tracker.registry.register(tracked.id, CHECKPOINT, "cable")
    assert next_version.tags["vqlab.model_id"] == model.model_id and next_version.version == 2


def models(tracker: Tracker, experiment: str) -> list[Any]:
    return list(tracker._client.search_logged_models([experiment]))


def test_version_without_a_model_can_be_loaded(tracker: Tracker) -> None:
    """Versions registered by vqlab 0.1 have the checkpoint of the run only."""
    with start(tracker, "run") as tracked:
        tracked.log_text("weights", CHECKPOINT)
    registry = tracker.registry
    version = registry.register(tracked.id, CHECKPOINT, "cable")
    sha = version.tags["vqlab.checkpoint_sha256"]
    client = tracker._client
    old = client.create_model_version(
        version.model, f"runs:/{tracked.id}/{CHECKPOINT}", tracked.id,
        tags={"vqlab.checkpoint": CHECKPOINT, "vqlab.checkpoint_sha256": sha},
    )  # fmt: skip
    registry.set_champion(registry.versions("cable")[0], None)
    assert tracker.champion("cable").version == int(old.version) == 2
    assert tracker.champion("cable").checkpoint.read_text() == "weights"
    registry.add_evaluation(tracked.id, tracked.id)  # skips the version without a model


def test_models_of_a_moved_store_can_be_loaded(tracker: Tracker, tmp_path: Path) -> None:
    with start(tracker, "run") as tracked:
        tracked.log_text("weights", CHECKPOINT)
    tracker.registry.register(tracked.id, CHECKPOINT, "cable")
    shutil.copytree(tracker.root, tmp_path / "moved" / "mlruns")
    shutil.rmtree(tracker.root / "artifacts")
    moved = Tracker.open(tmp_path / "moved" / "mlruns")
    uri = moved._client.get_model_version_download_uri("vqlab-cable", "1")
    assert Path(uri.removeprefix("file://")).is_relative_to(tmp_path / "moved")
    (model,) = models(moved, tracked.experiment_id)
    assert model.artifact_location == uri and Path(uri.removeprefix("file://")).is_dir()


@pytest.fixture
def server(trained: str, store: Tracker, tmp_path: Path) -> Iterator[str]:
    """`mlflow models serve` in a separate process group; its address."""
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/vqlab-part@champion",
        "--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "-w", "1",
    ]  # fmt: skip
    environ = environment(store)
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    with serving(command, environ, port, tmp_path / "server.log", "ping") as address:
        yield address


@pytest.mark.slow
def test_mlflow_models_serve(server: str, store: Tracker, images: list[bytes]) -> None:
    encoded = [base64.b64encode(content).decode() for content in images]
    for body in (
        {"dataframe_records": [{"image": text} for text in encoded]},
        {"dataframe_split": {"columns": ["image"], "data": [[text] for text in encoded]}},
    ):
        check(post(server, body)["predictions"], store, images)
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server, {"dataframe_records": [{"path": "/etc/hostname"}]})
    refused.value.close()
    assert refused.value.code == 400


def post(server: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{server}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
