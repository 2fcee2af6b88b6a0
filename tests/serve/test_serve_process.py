"""`vqlab serve` as a process: start, invalid options, termination under load."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from commands import refusal
from servers import post, server_process


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vqlab", "serve", *arguments],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_sigterm_under_load_finishes_requests(trained_store: Path, good_file: Path) -> None:
    content = good_file.read_bytes()
    started, finished, failures = [], [], []
    lock, ended = threading.Lock(), threading.Event()

    def client() -> None:
        while not ended.is_set():
            number = len(started)
            began = time.monotonic()
            with lock:
                started.append(began)
            try:
                response = post(address, *[content] * 8, category="part")
                finished.append(response.status_code)
            except requests.ConnectionError as error:
                failures.append((number, began, str(error)))
                return

    with server_process(trained_store) as (process, address):
        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        while len(finished) < 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        for thread in clients:
            thread.join(30)
            assert not thread.is_alive()
        output = process.communicate(timeout=30)[0]
        assert process.returncode == 0, output
    assert set(finished) == {200}
    # Requests that started well before the signal were answered; only later ones were refused.
    assert all(began > sent - 0.05 for _, began, _ in failures), failures
    assert "Traceback" not in output and '"status": 200' in output


@pytest.mark.slow
def test_token_from_the_environment_and_two_categories(
    trained_store: Path, good_file: Path
) -> None:
    token = "0123456789abcdef"
    with server_process(trained_store, "-c", "part", "-c", "lid", VQLAB_TOKEN=token) as (
        _,
        address,
    ):
        assert requests.get(f"{address}/v1/categories", timeout=10).status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.get(f"{address}/v1/categories", headers=headers, timeout=10)
        assert [each["category"] for each in answer.json()] == ["lid", "part"]


def test_invalid_options_exit_with_an_error(trained_store: Path, tmp_path: Path) -> None:
    store = ("--mlruns", str(trained_store))
    assert "needs a token; set VQLAB_TOKEN" in refusal("serve", *store, "--host", "0.0.0.0")
    assert "at least 16 characters" in refusal("serve", *store, "--token", "short")
    assert "did you mean part?" in refusal("serve", *store, "-c", "prat")
    assert "there are no tracked runs" in refusal("serve", "--mlruns", str(tmp_path / "none"))
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = str(occupied.getsockname()[1])
        assert "choose another with --port" in refusal("serve", *store, "--port", port)


@pytest.mark.slow
def test_error_is_one_sentence_without_traceback(trained_store: Path) -> None:
    done = run_serve("--mlruns", str(trained_store), "--host", "0.0.0.0")
    assert done.returncode == 2 and done.stderr.startswith("vqlab: a server on 0.0.0.0 can be")
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
