"""Servers: a port in use raises; `ui` can serve other machines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from vqlab.cli import main
from vqlab.errors import UserError
from vqlab.ports import is_loopback, names_of, require_free
from vqlab.tracking import Tracker, ui_command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("verb", ["ui", "dashboard"])
def test_port_in_use_gives_the_same_error(
    verb: str,
    store: Tracker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vqlab.sweep.study.storage import open_storage

    monkeypatch.delenv("VQLAB_STORAGE", raising=False)
    open_storage(f"sqlite:///{store.root / 'optuna.db'}")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        words = ["vqlab", verb, "--port", str(port), "--mlruns", str(store.root)]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"vqlab: port {port} of 127.0.0.1 cannot be used (Address already in use); choose another "
        "with --port.\n"
    )


def test_addresses_of_other_machines() -> None:
    require_free("127.0.0.1", free_port())
    for host in ("203.0.113.7", "nowhere.invalid"):
        with pytest.raises(UserError, match=f"host {host} is not an address of this machine"):
            require_free(host, 5000)


def test_reachability_of_a_host() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.3.2.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.2", "inspection.example")))
    assert names_of("192.0.2.2")[:2] == ["192.0.2.2", socket.gethostname()]
    assert names_of("2001:db8::1")[0] == "[2001:db8::1]"
    assert socket.gethostname() in names_of("0.0.0.0") and "0.0.0.0" not in names_of("0.0.0.0")


def test_allowed_hosts_of_the_server(store: Tracker) -> None:
    argv, _ = ui_command(store.root, port=5001)
    assert "--allowed-hosts" not in argv  # MLflow's default: the loopback interface
    argv, _ = ui_command(store.root, port=5001, allowed_hosts=["a.example", "b.example:443"])
    hosts = argv[argv.index("--allowed-hosts") + 1].split(",")
    origins = argv[argv.index("--cors-allowed-origins") + 1].split(",")
    assert {"localhost:5001", "a.example", "a.example:5001", "b.example:443"} <= set(hosts)
    assert "b.example:443:5001" not in hosts
    assert {"http://a.example:5001", "https://a.example"} <= set(origins)


def request_status(address: str, host: str, path: str = "/", origin: str = "") -> int:
    """Return the status of a response to a browser that addresses the server as `host`; with an
    origin it sends a POST, as MLflow's page does."""
    headers = {"Host": host, "Content-Type": "application/json"}
    body = None
    if origin:
        headers["Origin"] = origin
        body = json.dumps({"experiment_ids": ["0"]}).encode()
    try:
        request = urllib.request.Request(address + path, body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.slow
def test_ui_of_a_new_store_serves_other_machines(tmp_path: Path) -> None:
    port = free_port()
    log = (tmp_path / "log").open("w+")
    words = ["--host", "0.0.0.0", "--port", str(port), "--allowed-hosts", "inspection.example"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vqlab", "ui", *words, "--mlruns", str(tmp_path / "new")],
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    search = "/ajax-api/2.0/mlflow/runs/search"
    try:
        for _ in range(1200):  # the address is printed once the server answers
            if "MLflow UI: http://" in (tmp_path / "log").read_text():
                break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        for host in (f"inspection.example:{port}", f"localhost:{port}"):
            assert request_status(address, host) == 200
            assert request_status(address, host, search, f"http://{host}") == 200
        assert request_status(address, f"evil.example:{port}") == 403
        evil = f"http://evil.example:{port}"
        assert request_status(address, f"inspection.example:{port}", search, evil) == 403
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        status = process.wait(120)
        log.close()
    assert status == 0
    require_free("127.0.0.1", port)
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert f"anyone with access to port {port} of this machine" in (tmp_path / "log").read_text()
