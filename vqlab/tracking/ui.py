"""The command that serves the MLflow UI, on the loopback interface or to other machines."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vqlab.errors import UserError
from vqlab.tracking.store import UI_HOST, UI_PORT, connect, locate

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def ui_command(
    root: Path,
    host: str = UI_HOST,
    port: int = UI_PORT,
    allowed_hosts: Sequence[str] = (),
) -> tuple[list[str], dict[str, str]]:
    """Return arguments and environment of the process that serves the UI in the foreground.

    allowed_hosts: names and addresses, besides those of the loopback interface, by which browsers
    may call this server; `*` matches any text. Empty: MLflow's default.

    A store that does not exist yet is created, so that the UI shows new runs.

    Raises UserError if a server serves the store already, or the store cannot be used.
    """
    store = locate(root)
    if store.artifacts is None:
        raise UserError(f"the runs are on a server with its own UI; open {store.web} instead.")
    missing = store.database is not None and not store.database.exists()
    store = connect(store, create=missing, write=False).store
    arguments = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    arguments += ["--artifacts-destination", str(store.artifacts), "--workers", "1"]
    arguments += ["--host", host, "--port", str(port)]
    if allowed_hosts:
        headers = _host_headers([*_LOOPBACK, *allowed_hosts], port)
        arguments += ["--allowed-hosts", ",".join(headers)]
        origins = [f"{scheme}://{header}" for header in headers for scheme in ("http", "https")]
        # The UI itself sends POST requests, which the server refuses from any other origin.
        arguments += ["--cors-allowed-origins", ",".join(origins)]
    return arguments, {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _host_headers(hosts: Sequence[str], port: int) -> list[str]:
    """Return the `Host` headers that MLflow must accept; it compares them including the port."""
    headers: list[str] = []
    for host in hosts:
        headers.append(host)  # of port 80, or behind a proxy
        if host != "*" and not re.search(r":\d+$", host.rpartition("]")[2]):
            headers.append(f"{host}:{port}")
    return list(dict.fromkeys(headers))
