"""A temporary PostgreSQL server, with its data in a temporary folder."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USERS = ("postgres", "nobody")
"""Whom the server runs as where this process is root's, which PostgreSQL refuses."""


class NoPostgres(RuntimeError):
    """PostgreSQL or its driver is not installed."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server; yield its address (database `vqlab`) in the format of VQLAB_STORAGE. Raises
    NoPostgres."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise NoPostgres("PostgreSQL's driver is missing: pip install 'vqlab[postgres]'") from None
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    place = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    missing = [
        name for name in ("initdb", "pg_ctl", "createdb") if not shutil.which(name, path=place)
    ]
    if missing:
        raise NoPostgres(f"PostgreSQL's {', '.join(missing)} not found (Debian: postgresql)")
    user = _user() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    around = {**os.environ, "PATH": place}

    def call(*command: str) -> None:
        done = subprocess.run(
            command, env=around, cwd=folder, user=user, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    data = str(folder / "data")
    try:
        call("initdb", "-D", data, "-U", "vqlab", "-A", "trust", "--no-sync", "-E", "UTF8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
        call("pg_ctl", "-D", data, "-l", str(folder / "log"), "-w", "-o", options, "start")
        call("createdb", "-h", "127.0.0.1", "-p", port, "-U", "vqlab", "vqlab")
        yield f"postgresql://vqlab@127.0.0.1:{port}/vqlab"
    finally:
        stop = ["pg_ctl", "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stop, env=around, cwd=folder, user=user, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str:
    import pwd

    there = {entry.pw_name for entry in pwd.getpwall()}
    for name in USERS:
        if name in there:
            return name
    raise NoPostgres("PostgreSQL does not run as root, and there is no other user")
