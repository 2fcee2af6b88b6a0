"""Servers for tests: uvicorn in a thread of this process, or `vqlab serve` in its own process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import requests

from vqlab.serve import ServeSettings, create_app
from vqlab.serve.server import make_server

PREDICT = "/v1/predict"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def copy_store(root: Path, target: Path) -> Path:
    """Copy a folder of runs to a location that servers of this process may use.

    Databases are copied by SQLite: a process that opens and closes their files loses its locks on
    them, and a second process then truncates shared memory that the first has mapped.
    """

    def copy(source: str, destination: str) -> str:
        if not source.endswith(".db"):
            return shutil.copy2(source, destination)
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(destination)) as new:
            old.backup(new)
        return destination

    ignored = shutil.ignore_patterns("*.db-wal", "*.db-shm")
    return Path(shutil.copytree(root, target, ignore=ignored, copy_function=copy))


@contextmanager
def running(settings: ServeSettings) -> Iterator[str]:
    """Serve from a thread; yield the address."""
    settings = settings.model_copy(update={"port": free_port()})
    server = make_server(create_app(settings), settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def server_process(
    mlruns: Path, *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `vqlab serve`; yield the process and its address once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "vqlab", "serve", "--mlruns", str(mlruns)]
    process = subprocess.Popen(
        [*command, "--port", str(port), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not _is_ready(address):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        yield process, address
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _is_ready(address: str) -> bool:
    try:
        return requests.get(f"{address}/readyz", timeout=5).ok
    except requests.ConnectionError:
        return False


def post(address: str, *contents: bytes, **params: object) -> requests.Response:
    """Send images to /v1/predict."""
    files = [("images", (f"{i}.png", content)) for i, content in enumerate(contents)]
    return requests.post(f"{address}{PREDICT}", params=params, files=files, timeout=60)


def error_of(response: requests.Response) -> str:
    """Return the message of an error response, which must have no other content."""
    body = response.json()
    assert list(body) == ["error"] and "Traceback" not in body["error"]
    assert body["error"].endswith((".", "?")) and "\n" not in body["error"]
    return str(body["error"])
