"""The study store: an SQLite file under mlruns/, or the database at VQLAB_STORAGE.

Workers of a study share only the store, so its lock is there too: a file lock beside SQLite, or an
advisory lock of PostgreSQL. Both are released when their process ends.
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
"""Environment variable: where studies are kept; empty: an SQLite file under mlruns/."""
_HEARTBEAT = "VQLAB_HEARTBEAT"
"""Environment variable: seconds between the signs of life of a trial; missed three times, another
machine's trial counts as dead."""
_PATIENCE = 120
"""Seconds to wait for a store that another process has locked."""
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
"""So that the locks of a machine that vanished are free within a minute."""


def storage_address(root: Path) -> str:
    """The URL of the store of studies. Raises UserError for a kind that vqlab does not use."""
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
        shown = without_password(address).removeprefix("sqlite:///")
        remedy = "free some space, or make it readable and writable"
        if shown.startswith("postgresql"):
            remedy = f"check that the server runs and that {ADDRESS} is right"
        raise UserError(
            f"the study store {shown} cannot be used ({database_said(error)}); {remedy}, and run "
            "the same command again."
        ) from error


def database_said(error: Exception) -> str:
    """What an unusable study store said itself, a line; Optuna's own words hide it."""
    cause = error.__cause__ or error
    return str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]


def open_storage(address: str) -> RDBStorage:
    """The store of studies, made where it is not there. Raises UserError if unusable."""
    options: dict[str, Any] = {"connect_args": {"timeout": _PATIENCE}}
    interval = _heartbeat()
    with store_errors(address):
        if address.startswith("sqlite:///"):
            path = Path(address.removeprefix("sqlite:///"))
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            options = {"connect_args": _KEEPALIVE, "pool_pre_ping": True, "pool_size": 2}
        try:
            with warnings.catch_warnings(), _one_makes_the_tables(address):
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(
                    address,
                    engine_kwargs=options,
                    heartbeat_interval=interval,
                    grace_period=3 * interval,
                )
        except ImportError as error:
            raise UserError(
                f"studies in PostgreSQL need its driver ({error}); install it with: "
                "pip install 'vqlab[postgres]'"
            ) from None


@contextlib.contextmanager
def heartbeat(storage: RDBStorage, trial_id: int) -> Iterator[None]:
    """Record the heartbeat of a trial in a thread while the context lasts.

    A heartbeat that a full or locked store refuses is skipped.
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
    """The store of studies, its connections closed afterwards. Raises as `open_storage`, and turns
    what an unusable store raises meanwhile into one sentence."""
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
def _one_makes_the_tables(address: str) -> Iterator[None]:
    """The first to open an empty store makes its tables; two at once would fail each other."""
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
            f"study {study} is being swept by process {pid} already; wait for it, or end it "
            f"(kill {pid}), and run the same command again."
        ) from None
