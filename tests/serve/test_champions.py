"""Models of a server: replaced during serving, kept when the new one is damaged, cached,
evicted."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from safetensors.torch import save_file
from servers import error_of, post, running

from vqlab.checkpoint import load_checkpoint, save_checkpoint, split_state
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.serve import ServeSettings
from vqlab.serve.champions import Champions, UnusableModel
from vqlab.tracking import Tracker

FAST = {"categories": ("part",), "poll_seconds": 0.1}


def promote(mlruns: Path, version: int) -> None:
    registry = Tracker.open(mlruns).registry
    match = next(v for v in registry.versions("part") if v.version == version)
    registry.set_champion(match, registry.by_alias("part"))


def checkpoint(mlruns: Path, version: int) -> Path:
    registry = Tracker.open(mlruns).registry
    return registry.checkpoint(next(v for v in registry.versions("part") if v.version == version))


def wait_for_version(address: str, version: int) -> None:
    deadline = time.monotonic() + 30
    while requests.get(f"{address}/readyz", timeout=10).json()["categories"]["part"] != version:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_promotion_under_load_loses_no_request(mlruns: Path, defect_file: Path) -> None:
    content = defect_file.read_bytes()
    expected = {n: Model.load(checkpoint(mlruns, n)).score(defect_file).score for n in (1, 2)}
    assert abs(expected[1] - expected[2]) > 1e-3 * abs(expected[1])
    versions: list[list[int]] = [[] for _ in range(4)]
    problems: list[str] = []
    end = threading.Event()

    def client(received: list[int]) -> None:
        with requests.Session() as session:
            while not end.is_set():
                response = session.post(
                    f"{address}/v1/predict", files={"images": content}, timeout=30
                )
                if response.status_code != 200:
                    problems.append(response.text)
                    continue
                body = response.json()
                received.append(body["version"])
                score = body["images"][0]["score"]
                if not np.isclose(score, expected[body["version"]], rtol=1e-4):
                    problems.append(f"version {body['version']} answered {score}")

    with running(ServeSettings(mlruns=mlruns, max_queue=1000, **FAST)) as address:
        clients = [threading.Thread(target=client, args=(received,)) for received in versions]
        for thread in clients:
            thread.start()
        for version in (2, 1, 2):
            time.sleep(0.3)
            promote(mlruns, version)
            wait_for_version(address, version)
        time.sleep(0.3)
        end.set()
        for thread in clients:
            thread.join()
    assert problems == []
    total = sum(map(Counter, versions), Counter())
    assert total[1] > 4 and total[2] > 4 and all(received[-1] == 2 for received in versions)


def test_damaged_champion_is_not_loaded(
    mlruns: Path, good_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(mlruns, 2).write_bytes(b"damaged")
    with running(ServeSettings(mlruns=mlruns, **FAST)) as address:
        promote(mlruns, 2)
        deadline = time.monotonic() + 20
        while "vqlab_poll_failures_total 0" in requests.get(f"{address}/metrics", timeout=9).text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        body = post(address, good_file.read_bytes()).json()
        assert body["version"] == 1 and body["images"][0]["error"] is None
        named = post(address, good_file.read_bytes(), version=2)
        assert named.status_code == 503
        assert error_of(named) == ("version 2 of part cannot be loaded; see the server's log.")
    messages = [record.getMessage() for record in caplog.records]
    warnings = [m for m in messages if m.startswith("champions could not be updated")]
    assert len(warnings) == 1 and "is not the file that was registered" in warnings[0]


def test_categories_promoted_later_are_served(mlruns: Path, good_file: Path) -> None:
    registry = Tracker.open(mlruns).registry
    registry._client.delete_registered_model_alias("vqlab-lid", "champion")
    with running(ServeSettings(mlruns=mlruns, poll_seconds=0.1)) as address:
        assert post(address, good_file.read_bytes(), category="lid").status_code == 404
        registry.set_champion(registry.versions("lid")[0], None)
        deadline = time.monotonic() + 20
        while post(address, good_file.read_bytes(), category="lid").status_code == 404:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_versions_are_cached_and_evicted(
    trained_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champions = Champions(ServeSettings(mlruns=trained_store, cached_versions=1))
    loads: list[Path] = []
    plain = Model.load

    def counted(path: Path, device: str = "auto") -> Model:
        loads.append(path)
        return plain(path, device)

    monkeypatch.setattr(Model, "load", counted)
    first = champions.version("part", 2)
    assert champions.version("part", 2) is first and len(loads) == 1
    assert champions.version("part", 1) is champions.champion("part") and len(loads) == 1
    registry = champions._registry
    other = registry.versions("part")[0]
    registry.register(other.run_id, other.tags["vqlab.checkpoint"], "part")
    try:
        champions.version("part", 3)
        assert champions.version("part", 2) is not first and len(loads) == 3
    finally:
        registry._client.delete_model_version("vqlab-part", "3")


def test_server_requires_a_champion(empty_store: Path, trained_store: Path) -> None:
    with pytest.raises(UserError, match="no category in .* has a champion; train and promote one"):
        Champions(ServeSettings(mlruns=empty_store))
    with pytest.raises(UserError, match="category 'prat' has no champion; did you mean part"):
        Champions(ServeSettings(mlruns=trained_store, categories=("prat",)))


class Malicious:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> object:
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("features", "hf-hub:evil/model"),
        ("features", "local-dir:/tmp"),
        ("detector", "os.system"),
        ("detector", "/tmp/evil.py"),
    ],
)
def test_checkpoint_cannot_trigger_code_or_downloads(
    section: str, name: str, mlruns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, meta = load_checkpoint(checkpoint(mlruns, 1))
    meta["config"][section] = {"backbone": name} if section == "features" else {"name": name}
    detector, _ = split_state(tensors)
    stored = torch.nn.Module()
    stored.state_dict = lambda: detector  # type: ignore[method-assign,assignment]
    file = save_checkpoint(tmp_path / "model.safetensors", stored, meta)

    def connect(*_: object) -> None:
        raise AssertionError("network")

    monkeypatch.setattr("socket.create_connection", connect)
    with pytest.raises(UserError, match="does not exist|there is no detector"):
        Model.load(file)


@pytest.mark.parametrize("kind", ["pickle", "torch", "safetensors", "settings", "huge header"])
def test_malicious_checkpoints_do_not_run_code(kind: str, tmp_path: Path) -> None:
    trap, file = tmp_path / "trap", tmp_path / "model.safetensors"
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Malicious(trap)))
    elif kind == "torch":
        torch.save({"state": Malicious(trap)}, file)
    elif kind == "safetensors":  # from another program
        save_file({"weight": torch.zeros(2)}, file)
    elif kind == "settings":
        save_file({"weight": torch.zeros(2)}, file, {"kind": "vqlab checkpoint", "json": "{}"})
    else:
        file.write_bytes((2**62).to_bytes(8, "little") + b"{" * 1000)
    with pytest.raises(UserError):
        Model.load(file)
    assert not trap.exists()


def test_replaced_checkpoint_is_rejected(mlruns: Path, tmp_path: Path) -> None:
    """A valid checkpoint replaces the registered one: its SHA-256 differs."""
    champions = Champions(ServeSettings(mlruns=mlruns, categories=("part",)))
    checkpoint(mlruns, 2).write_bytes(checkpoint(mlruns, 1).read_bytes())
    with pytest.raises(UnusableModel):
        champions.version("part", 2)
