"""Command `ui`: serve the MLflow UI."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import Tracking
from vqlab.ports import is_listening, is_loopback, names_of, require_free


@app.command(short_help="Serve the MLflow UI.")
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 also serves other machines.")
    ] = "127.0.0.1",
    allowed_hosts: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated host names that browsers may use with --host; default: this "
            "machine's name and addresses."
        ),
    ] = None,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Serve the MLflow UI (stop it with Ctrl-C).

    Links printed by other commands use the address of the last `vqlab ui`, or
    VQLAB_UI=http://host:port.
    """
    from vqlab.cli.terminal import marked, out
    from vqlab.tracking import remember_ui, ui_command

    hosts = _hosts(host, allowed_hosts)
    require_free(host, port)
    argv, env = ui_command(mlruns, host=host, port=port, allowed_hosts=hosts)
    address = host if is_loopback(host) else names_of(host)[0]
    remember_ui(mlruns, address, port)
    if not is_loopback(host):
        warning = (
            f": anyone with access to port {port} of this machine can read, change and delete all "
            "runs and artifacts; there is no password. Safer: omit --host and forward the port: "
            f"ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}"
        )
        out.print(marked("warning", "bold yellow", warning))
    url = f"http://{address}:{port}/#/experiments?workflowType=machine_learning"
    raise SystemExit(_run(argv, env, lambda: is_listening(host, port), f"MLflow UI: {url}"))


def _run(argv: list[str], env: dict[str, str], ready: Callable[[], bool], line: str) -> int:
    """Run a server until it ends; print a line once it is ready. Return its exit status,
    as a shell does."""
    from vqlab.cli.terminal import out

    # In a new session, so that Ctrl-C reaches it once: MLflow passes signals on to its own server.
    server = subprocess.Popen(argv, env=env, start_new_session=True)
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, lambda *_: server.terminate())
    while server.poll() is None and not ready():
        time.sleep(0.1)
    if server.poll() is None:
        out.print(line)
    status = server.wait()
    return status if status >= 0 else 128 - status


def _hosts(host: str, allowed: str | None) -> list[str]:
    """Return the allowed host names; on the loopback interface, only those given."""
    names = [name for name in (word.strip() for word in (allowed or "").split(",")) if name]
    return names or ([] if is_loopback(host) else names_of(host))
