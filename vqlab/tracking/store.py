"""The tracking store: SQLite and artifacts under mlruns/, or the store of MLFLOW_TRACKING_URI.

Problems that users can fix (disk full, read-only folder, server down) are raised as UserErrors,
before work starts if possible.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import itertools
import logging
import os
import shutil
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from filelock import FileLock
from sqlalchemy.exc import IntegrityError

from vqlab.errors import UserError, did_you_mean
from vqlab.text import without_password
from vqlab.tracking.advisory_lock import advisory_lock
from vqlab.tracking.database import (
    LOCK_TIMEOUT,
    check_database,
    copy_database,
    is_writable,
    prepare_database,
)
from vqlab.tracking.errors import probe, user_errors

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

UI_HOST, UI_PORT = "127.0.0.1", 5000
UI_VARIABLE = "VQLAB_UI"
"""Environment variable: address of the UI for printed links."""
_UI_FILE = "ui.txt"
"""File in the store's root with the address at which the UI was started last."""
_TIMEOUT = 60
_ATTEMPTS = 8
_CONFLICTS = (
    "IntegrityError", "UniqueViolation", "UNIQUE constraint failed", "DeadlockDetected",
    "SerializationFailure",
)  # fmt: skip

# `Client` raises UserErrors instead of the messages that these would print.
for _name in ("mlflow.store.db.utils", "mlflow.system_metrics"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Store:
    """Addresses of a store. `artifacts` is None where a server decides where artifacts go."""

    uri: str
    root: Path
    database: Path | None
    artifacts: Path | None
    copy: Path | None = None
    """Copy of the database for reading a store without write permission."""

    @property
    def web(self) -> str:
        """Address of the UI: VQLAB_UI, else the server of MLFLOW_TRACKING_URI, else the address of
        the last `vqlab ui`, else the default."""
        named = _ui_variable()
        if named:
            return named
        if self.artifacts is None:
            return without_password(self.uri)
        with contextlib.suppress(OSError, ValueError):
            return (self.root / _UI_FILE).read_text(encoding="utf-8").strip()
        return f"http://{UI_HOST}:{UI_PORT}"

    def run_folder(self, run_id: str) -> Path:
        """Return the local folder for files of a run that are not artifacts; it may not exist."""
        return self.root / "runs" / run_id


def locate(root: Path) -> Store:
    """Return the store of MLFLOW_TRACKING_URI, else SQLite under `root`, without opening it.

    Raises UserError for an unsupported address.
    """
    root = root.absolute()
    named = _ui_variable()
    if named and not named.startswith(("http://", "https://")):
        raise UserError(
            f"{UI_VARIABLE} must be the address of the MLflow UI, such as http://127.0.0.1:5001; "
            f"got {named!r}."
        )
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if uri.startswith(("http://", "https://")):
        return Store(uri.rstrip("/"), root, None, None)
    if uri.startswith("postgresql"):
        return Store(uri, root, None, root / "artifacts")
    path, _, query = uri.removeprefix("sqlite:///").partition("?")
    if uri and (not uri.startswith("sqlite:///") or not path or path == ":memory:"):
        raise UserError(
            "MLFLOW_TRACKING_URI must be http(s)://…, sqlite:///file.db or postgresql://…; "
            f"got {uri!r}; unset it to use {root}."
        )
    database = Path(path).absolute() if uri else root / "mlflow.db"
    if set("?%") & set(str(database)):
        raise UserError(
            f"the path of the tracking database must not contain '?' or '%'; got {database}; "
            "choose another folder."
        )
    full = f"sqlite:///{database}?{query or f'timeout={_TIMEOUT}'}"
    return Store(full, root, database, database.parent / "artifacts")


def connect(store: Store, create: bool = True, write: bool = True) -> Client:
    """Return a client of `store`. Raises UserError if the store cannot be used.

    create: create a store that does not exist; otherwise that is a UserError, and no file or
    folder is created on this machine. write: False, for reading runs only, uses a copy of the
    database if the store is not writable.
    """
    if store.artifacts is None:
        _reach(store.uri)
    if create:
        probe(store.root)
        if store.artifacts:
            probe(store.artifacts.parent)
    else:
        require_store(store)
    if not (create or write):
        store = readable(store)
    # The first query creates the tables; two processes must not do that concurrently.
    opening = contextlib.nullcontext() if store.artifacts is None else store_lock(store, "store")
    with user_errors(store.root), opening:
        if store.database and not store.copy:
            # MLflow would retry a database that cannot be opened for hours.
            check_database(store.database)
        client = Client(store)
        client.search_experiments(max_results=1)
        if store.database:
            prepare_database(store.copy or store.database, store.database.parent / "artifacts")
    return client


def readable(store: Store) -> Store:
    """Return the store, its database replaced by a copy in a temporary folder if the store cannot
    be written: MLflow writes a database that it only reads from, too."""
    if store.database is None or is_writable(store.database, store.database.parent):
        return store
    folder = Path(tempfile.mkdtemp(prefix="vqlab-read-only-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / store.database.name
    try:
        copy_database(store.database, copy)
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the database {store.database} cannot be read ({error}); make it readable."
        ) from error
    return replace(store, uri=f"sqlite:///{copy}?timeout={_TIMEOUT}", copy=copy)


def require_store(store: Store) -> None:
    """Raise UserError if the database of `store` is a file that does not exist."""
    if store.database is None or store.database.is_file():
        return
    if store.root.exists() and not store.root.is_dir():
        raise UserError(f"{store.root} must be a folder; move away the file of that name.")
    where = store.database.parent
    if where != store.root:  # MLFLOW_TRACKING_URI names the file
        raise UserError(
            f"the tracking database {store.database} does not exist; check MLFLOW_TRACKING_URI."
        )
    siblings = where.parent.glob("*/mlflow.db") if where.parent.is_dir() else ()
    hint = did_you_mean(where.name, (path.parent.name for path in siblings))
    hint = hint or "train or sweep first (vqlab sweep), or name another folder with --mlruns."
    raise UserError(f"there are no tracked runs in {where} (it has no mlflow.db); {hint}")


def store_lock(store: Store, name: str) -> contextlib.AbstractContextManager[object]:
    """Return a lock of all processes that use the store; of a server, of those on this machine."""
    if store.copy:
        return contextlib.nullcontext()
    if store.uri.startswith("postgresql"):
        return _postgres_lock(store.uri, name)
    folder = store.database.parent if store.database else store.root
    return FileLock(folder / f"{name}.lock")


@contextlib.contextmanager
def _postgres_lock(uri: str, name: str) -> Iterator[None]:
    engine = sqlalchemy.create_engine(uri)
    try:
        with advisory_lock(engine, f"vqlab tracking {name}"):
            yield
    finally:
        engine.dispose()


class Client:
    """MlflowClient that raises UserError for problems users can fix and retries conflicts with
    concurrent processes. MLflow is imported at the first call."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        with warnings.catch_warnings():
            # MLflow 3.17 uses an API deprecated by SQLAlchemy 2.1.
            warnings.simplefilter("ignore", DeprecationWarning)
            return MlflowClient(self.store.uri, registry_uri=self.store.uri)

    def __getattr__(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        method = getattr(self._client, name)

        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            deadline = time.monotonic() + LOCK_TIMEOUT
            with user_errors(self.store.root):
                for attempt in itertools.count():
                    try:
                        return method(*arguments, **named)
                    except MlflowException as error:
                        # The transaction has been rolled back; after a conflict, the retry finds
                        # the row of the other process. MLflow itself waits 20 seconds for a lock.
                        locked = "database is locked" in str(error)
                        retry = locked and time.monotonic() < deadline
                        if not retry and (attempt >= _ATTEMPTS or not _is_conflict(error)):
                            raise
                        # Delays differ by process, to avoid repeated collisions.
                        time.sleep(0.2 if locked else 0.02 * (1 + os.getpid() % 7 + attempt))

        return call


def all_pages(search: Callable[..., Any], *arguments: Any, **named: Any) -> Iterator[Any]:
    """Yield the results of all pages of one of MLflow's searches."""
    token = None
    while True:
        page = search(*arguments, **named, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _is_conflict(error: MlflowException) -> bool:
    """Return whether a row was inserted concurrently or a transaction rolled back.

    Errors of a server arrive as text.
    """
    message = str(error)
    if error.error_code == "RESOURCE_ALREADY_EXISTS":
        return False
    return isinstance(error.__cause__, IntegrityError) or any(
        word in message for word in _CONFLICTS
    )


def remember_ui(root: Path, host: str, port: int) -> None:
    """Save the address of the UI for printed links. host: as used by browsers."""
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if not is_writable(root):  # keep the default
        return
    with user_errors(root):
        (root / _UI_FILE).write_text(address + "\n", encoding="utf-8")


def _ui_variable() -> str:
    return os.environ.get(UI_VARIABLE, "").strip().rstrip("/")


def _reach(uri: str) -> None:
    """Raise UserError if no server answers; MLflow would retry for minutes."""
    address = without_password(uri)
    try:
        urllib.request.urlopen(f"{address}/health", timeout=10).close()
    except urllib.error.HTTPError as error:  # 4xx is reported by MLflow's client
        error.close()
        if error.code >= 500:
            raise UserError(
                f"the tracking server {address} returned status {error.code}; check its log."
            ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"the tracking server {address} does not respond ({reason}); start it, or unset "
            "MLFLOW_TRACKING_URI."
        ) from None
