"""Command `dashboard`: serve optuna-dashboard on the study store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import Tracking
from vqlab.ports import cannot_listen
from vqlab.text import without_password


@app.command(short_help="Open optuna-dashboard on all studies.")
def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Serve optuna-dashboard on the studies of all sweeps, including running ones (stop it with
    Ctrl-C)."""
    from vqlab.cli.progress import out

    with serving(store_address(mlruns), host, port) as server:
        out.print(f"optuna-dashboard: http://{host}:{server.server_port}/dashboard")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            out.print("stopped")


def store_address(mlruns: Path) -> str:
    """Return the address of the study store: VQLAB_STORAGE, else `optuna.db` in `mlruns`.

    Raises UserError if that file does not exist.
    """
    from vqlab.errors import UserError
    from vqlab.sweep.study.storage import ADDRESS, storage_address

    address, prefix = storage_address(mlruns), "sqlite:///"
    if not address.startswith(prefix):
        return address
    path = Path(address.removeprefix(prefix))
    if not path.is_file():
        raise UserError(
            f"the study store {path} does not exist yet; run `vqlab sweep` first, or choose "
            f"another one with {ADDRESS if os.environ.get(ADDRESS) else '--mlruns'}."
        )
    # A sweep may be writing; SQLite waits only five seconds by default.
    return f"{address}?timeout=60"


def serving(address: str, host: str, port: int) -> Any:
    """Return a server of optuna-dashboard bound to the port, with one thread per request.

    Raises UserError if a package is missing, the store cannot be used, or the port is in use.
    """
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Do not log requests."""

    site = _site(address)
    try:
        return make_server(host, port, site, Server, Handler)
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def _site(address: str) -> Any:
    import warnings

    from sqlalchemy.exc import SQLAlchemyError

    from vqlab.errors import UserError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of optuna-dashboard's imports
            from optuna_dashboard import wsgi

            return wsgi(address)
    except ModuleNotFoundError as error:
        raise UserError(
            f"`vqlab dashboard` requires the package {_package(error.name)}, which is not "
            "installed; run `make setup`, or install it with pip."
        ) from None
    except Exception as error:  # Optuna wraps errors of the database
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        if not isinstance(cause, SQLAlchemyError):
            raise
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise UserError(
            f"the study store {without_password(address)} cannot be used ({reason}); check that "
            "the database is running, that you have access, and that it is an Optuna store."
        ) from None


def _package(module: str | None) -> str:
    return {"psycopg2": "psycopg2-binary"}.get(str(module), str(module).replace("_", "-"))
