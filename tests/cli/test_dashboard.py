"""`vqlab dashboard`: starts with the store of studies, or exits with an error."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from commands import start_command

from vqlab.cli import main
from vqlab.cli.dashboard import serving, store_address
from vqlab.sweep.report import annotate
from vqlab.sweep.study.storage import ADDRESS, open_storage


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Address of the dashboard, which runs in a separate process."""
    process = start_command("dashboard", "--port", "0", cwd=folder)
    try:
        line = process.first_line()
        assert "http://127.0.0.1:" in line, line
        yield line.split()[-1].removesuffix("/dashboard")
        os.kill(process.pid, signal.SIGINT)
        status, output, error = process.result()
        assert (status, output, error) == (0, f"{line}\nstopped\n", "")
    finally:
        process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose mlruns/ contains a study of two trials."""
    place = tmp_path_factory.mktemp("sweeps")
    storage = open_storage(f"sqlite:///{place / 'mlruns' / 'optuna.db'}")
    study = optuna.create_study(study_name="cable-vqvae-12345678", storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    return place


@pytest.fixture
def error_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Call the command in the folder of the study, where it must exit with an error; return it."""

    def call(*arguments: object, cwd: Path = folder, **environment: str) -> str:
        monkeypatch.chdir(cwd)
        monkeypatch.delenv(ADDRESS, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["vqlab", "dashboard", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, error = capsys.readouterr()
        assert end.value.code == 2 and not out, out + error
        assert error.startswith("vqlab: ") and error.count("\n") == 1, error
        return error

    return call


def test_study_has_named_objectives_and_a_note(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'mlruns' / 'optuna.db'}")
    study = optuna.create_study(
        study_name="s", storage=storage, directions=["maximize", "minimize"]
    )
    objectives = ["validation/aupro", "cost/parameters"]
    links = {"all trials": "http://127.0.0.1:5000/#/a?b=1"}
    annotate(study, objectives, "ca`ble\n<b> in data", links)
    assert study.metric_names == objectives
    annotate(study, objectives, "edited since", {})  # the note is kept
    with running(tmp_path) as address:
        with urllib.request.urlopen(f"{address}/api/studies", timeout=60) as answer:
            number = json.load(answer)["study_summaries"][0]["study_id"]
        with urllib.request.urlopen(f"{address}/api/studies/{number}", timeout=60) as answer:
            detail = json.load(answer)
    assert detail["objective_names"] == objectives
    note = detail["note"]["body"]
    assert "Dataset: `ca'ble\\n<b> in data`" in note
    assert "`validation/aupro` (higher is better), `cost/parameters` (lower is better)" in note
    assert "[all trials](<http://127.0.0.1:5000/#/a?b=1>)" in note


def studies(address: str) -> list[str]:
    with urllib.request.urlopen(f"{address}/api/studies", timeout=60) as answer:
        assert answer.status == 200
        return [study["study_name"] for study in json.load(answer)["study_summaries"]]


def test_shows_the_studies_of_sweeps(folder: Path, error_of: Callable[..., str]) -> None:
    with running(folder) as address:
        assert studies(address) == ["cable-vqvae-12345678"]
        with urllib.request.urlopen(f"{address}/dashboard", timeout=60) as page:
            assert page.status == 200 and b"<html" in page.read().lower()
        occupied = address.rpartition(":")[2]
        assert f"port {occupied} of 127.0.0.1 cannot be used" in error_of("--port", occupied)


def test_opens_the_store_given_by_the_environment(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS, f"sqlite:///{folder}/mlruns/optuna.db")
    with serving(store_address(tmp_path / "mlruns"), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert studies(f"http://127.0.0.1:{server.server_port}") == ["cable-vqvae-12345678"]
        server.shutdown()
    assert not (tmp_path / "mlruns").exists()
    monkeypatch.setenv(ADDRESS, "postgresql://me@host/optuna")
    assert store_address(tmp_path / "mlruns") == "postgresql://me@host/optuna"


def test_unusable_store_or_port_raises(
    tmp_path: Path, error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(cwd=tmp_path)
    assert "does not exist yet; run `vqlab sweep` first" in error
    assert not list(tmp_path.iterdir())
    assert "missing.db does not exist yet" in error_of(VQLAB_STORAGE="sqlite:///missing.db")
    (tmp_path / "optuna.db").write_text("no database " * 100)
    assert "cannot be used (file is not a database)" in error_of("--mlruns", tmp_path)
    (tmp_path / "optuna.db").write_text("")
    assert "cannot be used (no such table" in error_of("--mlruns", tmp_path)
    with socket.socket() as nobody:  # bound without listening
        nobody.bind(("127.0.0.1", 0))
        store = f"postgresql://me:secret@127.0.0.1:{nobody.getsockname()[1]}/optuna"
        assert "secret" not in error_of(VQLAB_STORAGE=store)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    assert "requires the package optuna-dashboard" in error_of()
