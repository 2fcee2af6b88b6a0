"""`vqlab doctor`: checks, speed, and no side effects."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vqlab.cli import main
from vqlab.data import source as data_source
from vqlab.doctor import Finding, folders, run_checks
from vqlab.doctor.network import PORTS
from vqlab.features import cache_folder
from vqlab.tracking import Tracker


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without environment variables that a developer may have set."""
    for name in ("VQLAB_STORAGE", "VQLAB_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("VQLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(name: str, data: Path | None = None) -> Finding:
    return next(f for f in run_checks(Path("mlruns"), data) if f.name == name)


def test_is_fast_and_imports_no_heavy_libraries(here: Path) -> None:
    program = (
        "import sys\n"
        "from vqlab.cli import load_commands\n"
        "try: load_commands()(['doctor'])\n"
        "except SystemExit as end: status = end.code\n"
        "heavy = {'torch', 'mlflow', 'optuna', 'timm', 'numpy', 'pandas', 'sklearn', 'cv2'}\n"
        "print(status, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "0 []\n", done.stderr
    assert "No errors found" in done.stdout
    assert not list(here.iterdir())


def test_fits_80_columns(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    argv = [sys.executable, "-m", "vqlab", "doctor"]
    program = f"import rich.console as c, runpy, sys; sys.argv = {argv[2:]!r};"
    program += "import vqlab.cli.progress as p; p.out = c.Console(width=80, highlight=False);"
    program += "from vqlab.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    table = [line for line in done.stdout.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(table) > 15 and max(map(len, table)) <= 80 and "…" not in done.stdout


def test_json_output_and_exit_status(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, dict[str, object]]:
        monkeypatch.setattr(sys, "argv", ["vqlab", "doctor", "--json", *words])
        with pytest.raises(SystemExit) as exit_info:
            main()
        return int(str(exit_info.value.code or 0)), json.loads(capsys.readouterr().out)

    status, message = call()
    assert (status, message["ok"]) == (0, True)
    (here / "mlruns").write_text("a file where the folder should be")
    status, message = call()
    assert (status, message["ok"]) == (1, False)


def test_existing_components_are_reported(here: Path, store: Tracker) -> None:
    (here / "data/MVTec/bottle/train").mkdir(parents=True)
    (here / "weights").mkdir()
    (here / "weights/resnet18.pth").touch()
    os.environ["VQLAB_WEIGHTS"] = "weights"
    try:
        assert find("weights").value == "weights: resnet18"
    finally:
        del os.environ["VQLAB_WEIGHTS"]
    assert find("data").value == "data/MVTec: bottle"
    result = {f.name: f for f in run_checks(store.root)}
    assert "mlflow.db (" in result["runs"].value and result["runs"].state == "ok"
    (here / "hub/hub/models--timm--resnet18.a1_in1k").mkdir(parents=True)
    assert find("weights").value == "downloaded: resnet18.a1_in1k"


def broken_store(here: Path) -> None:
    (here / "mlruns").mkdir()
    (here / "mlruns/mlflow.db").write_text("no database")


def no_server(here: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    os.environ["MLFLOW_TRACKING_URI"] = f"http://me:secret@127.0.0.1:{port}"


def variable(name: str, value: str) -> Callable[[Path], None]:
    return lambda here: os.environ.__setitem__(name, value)


@pytest.mark.parametrize(
    ("prepare", "name", "state", "message"),
    [
        (broken_store, "runs", "error", "damaged or not an SQLite file"),
        (no_server, "runs", "error", "no answer"),
        (variable("MLFLOW_TRACKING_URI", "file:./x"), "runs", "error", "must be sqlite"),
        (variable("VQLAB_STORAGE", "mysql://x"), "studies", "error", "must be sqlite"),
        (variable("VQLAB_CACHE", "/dev/null/features"), "cache", "error", "set VQLAB_CACHE"),
        (variable("VQLAB_WEIGHTS", "nowhere"), "weights", "warning", "must be a folder"),
        (variable("OMP_NUM_THREADS", "many"), "threads", "warning", "must be a number"),
        (variable("OMP_NUM_THREADS", "9999"), "threads", "warning", "exceeds the number of cores"),
        (variable("OMP_WAIT_POLICY", "active"), "threads", "warning", "OMP_WAIT_POLICY=passive"),
        (variable("HF_HUB_OFFLINE", "1"), "hub", "warning", "HF_HUB_OFFLINE is set"),
        (variable("HF_HUB_OFFLINE", "1"), "weights", "warning", "features.backbone=filters"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_broken_configurations_are_reported(
    prepare: Callable[[Path], None],
    name: str,
    state: str,
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for each in ("MLFLOW_TRACKING_URI", "VQLAB_STORAGE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(each, "")  # restores the variables that `prepare` sets
    monkeypatch.setenv("VQLAB_WEIGHTS", "")
    prepare(here)
    result = find(name)
    assert result.state == state and message in result.advice and "secret" not in str(result)


def test_unreachable_hub_is_a_warning(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        assert find("hub").state == "warning" and "cannot be reached" in find("hub").advice


def test_port_in_use_is_reported(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setitem(PORTS, "vqlab ui", port)
        result = find(f"port {port}")
        assert result.state == "warning" and "vqlab ui --port OTHER" in result.advice
    assert find(f"port {port}").state == "ok"


def test_empty_data_folder_is_reported(here: Path) -> None:
    assert "does not exist" in find("data", here / "nowhere").advice
    assert "has no category" in find("data", here).advice
    assert find("data").state == "ok"


def test_paths_equal_those_of_vqlab(monkeypatch: pytest.MonkeyPatch) -> None:
    """doctor duplicates these paths because the modules that define them import torch."""
    assert (
        folders.DEFAULT_ROOTS == data_source.DEFAULT_ROOTS
        and folders.SYNTHETIC == data_source.SYNTHETIC
    )
    assert folders.cache_folder() == cache_folder()
    monkeypatch.delenv("VQLAB_CACHE")
    assert folders.cache_folder() == cache_folder()


def test_unwritable_home_is_a_warning(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are cached in a temporary folder in this case."""
    monkeypatch.delenv("VQLAB_CACHE")
    monkeypatch.setenv("HOME", "/proc/nohome")
    cache = find("cache")
    assert cache.state == "warning" and "set VQLAB_CACHE to a writable folder" in cache.advice
