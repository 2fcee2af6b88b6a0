"""A process that serves HTTP, such as `mlflow server`, in a separate process group."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 300
"""Time for the server to start."""


def free_port() -> int:
    """Return a port that no process listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(command: Sequence[str], environment: Mapping[str, str], port: int, log: Path,
            health: str = "health") -> Iterator[str]:  # fmt: skip
    """Run a server; yield its address once it answers `health`."""
    with (
        log.open("w") as out,
        subprocess.Popen(
            command, env=environment, cwd=log.parent, stdout=out, stderr=out,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SECONDS
        try:
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{address}/{health}", timeout=5).close()
                    break
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def pictures_loaded(page: Any, selector: str, count: int) -> None:
    """Wait until a page shows `count` pictures that match a selector."""
    page.wait_for_function(
        "([selector, count]) => [...document.querySelectorAll(selector)]"
        ".filter(each => each.complete && each.naturalWidth > 100).length >= count",
        arg=[selector, count],
    )
