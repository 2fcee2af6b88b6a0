"""The study store: an SQLite file under mlruns/, or the database at VQLAB_STORAGE.

Workers of a study share only the store, so its lock is there too: a file lock next to the SQLite
file, or an advisory lock of PostgreSQL. Both are released when their process ends.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from vqlab.text import without_password
from vqlab.tracking.advisory_lock import advisory_lock
from vqlab.types import UserError

ADDRESS = "VQLAB_STORAGE"
"""Environment variable: address of the study store; empty: an SQLite file under mlruns/."""
_HEARTBEAT = "VQLAB_HEARTBEAT"
"""Environment variable: seconds between heartbeats of a trial. After three missed heartbeats a
trial of another machine counts as dead."""
_PATIENCE = 120
"""Seconds to wait for a store that another process has locked."""
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""Releases the locks of a lost machine within a minute."""


def storage_address(root: Path) -> str:
    """Return the address of the study store. Raises UserError for an unsupported kind."""
    address = os.environ.get(ADDRESS, "").strip()
    if not address:
        return f"sqlite:///{root.absolute() / 'optuna.db'}"
    if address.startswith(("postgresql://", "postgresql+")):
        return address
    if address.startswith("sqlite:///") and address != "sqlite:///:memory:":
        return f"sqlite:///{Path(address.removeprefix('sqlite:///')).absolute()}"
    raise UserError(
        f"{ADDRESS} must be postgresql://user:password@host/database or sqlite:///file.db; got "
        f"{without_password(address)!r}; unset it to use {root}."
    )


@contextlib.contextmanager
def store_errors(address: str) -> Iterator[None]:
    """Convert errors of a full disk or an unusable study store to UserError."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        location = without_password(address).removeprefix("sqlite:///")
        remedy = "free some space, or make it readable and writable"
        if location.startswith("postgresql"):
            remedy = f"check that the server is running and that {ADDRESS} is correct"
        raise UserError(
            f"the study store {location} cannot be used ({database_message(error)}); {remedy}, and "
            "re-run the command."
        ) from error


def database_message(error: Exception) -> str:
    """Return the first line of the database's own message, which Optuna wraps."""
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]


def open_storage(address: str) -> RDBStorage:
    """Return the study store, created if necessary. Raises UserError if it cannot be used."""
    options: dict[str, Any] = {"connect_args": {"timeout": _PATIENCE}}
    interval = _heartbeat()
    with store_errors(address):
        if address.startswith("sqlite:///"):
            path = Path(address.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            options = {"connect_args": _KEEPALIVE, "pool_pre_ping": True, "pool_size": 2}
        try:
            with warnings.catch_warnings(), _create_tables_once(address):
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(
                    address,
                    engine_kwargs=options,
                    heartbeat_interval=interval,
                    grace_period=3 * interval,
                )
        except ImportError as error:
            raise UserError(
                f"studies in PostgreSQL require its driver ({error}); install it with "
                "pip install 'vqlab[postgres]'."
            ) from None


@contextlib.contextmanager
def heartbeat(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Record the heartbeat of a trial in a thread while the context lasts.

    Heartbeats rejected by a full or locked store are skipped.
    """
    ended = threading.Event()

    def record() -> None:
        interval = storage.get_heartbeat_interval()
        while True:
            with contextlib.suppress(StorageInternalError, SQLAlchemyError):
                storage.record_heartbeat(trial_id)
            if ended.wait(interval):
                return

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def opened_storage(address: str) -> Iterator[RDBStorage]:
    """Yield the study store, and close its connections afterwards. Raises UserError as
    `open_storage`, and for errors of the store in the block."""
    with store_errors(address):
        storage = open_storage(address)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _heartbeat() -> int:
    text = os.environ.get(_HEARTBEAT, "").strip() or "60"
    if not text.isdigit() or not int(text):
        raise UserError(f"{_HEARTBEAT} must be a whole number of seconds, 1 or more; got {text!r}.")
    return int(text)


@contextlib.contextmanager
def _create_tables_once(address: str) -> Iterator[None]:
    """Hold a lock while the tables of an empty store are created: concurrent creation fails."""
    if address.startswith("sqlite:///"):
        path = address.removeprefix("sqlite:///")
        with FileLock(path + ".lock"):
            with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            yield
        return
    engine = sqlalchemy.create_engine(address, connect_args=_KEEPALIVE)
    try:
        with advisory_lock(engine, "vqlab tables"):
            yield
    finally:
        engine.dispose()


def study_lock(storage: RDBStorage, name: str) -> contextlib.AbstractContextManager[object]:
    """Return the lock of a study, held while a worker decides on its next trial."""
    if storage.engine.dialect.name != "sqlite":
        return advisory_lock(storage.engine, f"vqlab {name}")
    folder = Path(str(storage.engine.url.database)).parent / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.turn")


@contextlib.contextmanager
def sweep_lock(folder: Path, study: str) -> Iterator[None]:
    """Hold the study's lock on this machine. Raises UserError naming the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / f"{study}.pid"
    try:
        with FileLock(folder / f"{study}.lock", timeout=0):
            owner.write_text(str(os.getpid()), encoding="utf-8")
            yield
    except Timeout:
        pid = owner.read_text(encoding="utf-8") if owner.exists() else "unknown"
        raise UserError(
            f"study {study} is already being swept by process {pid}; wait for it, or end it "
            f"(kill {pid}) and re-run the command."
        ) from None
