"""Where runs are kept: an SQLite file and a folder under mlruns/, or what MLFLOW_TRACKING_URI says.

Everything a user can mend (a full disk, a read-only folder, a server that is not there) is found
here and said in one sentence, before work starts where that can be.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import http.client
import itertools
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from vqlab.errors import UserError, did_you_mean

UI_HOST, UI_PORT = "127.0.0.1", 5000
UI_VARIABLE = "VQLAB_UI"
"""Environment variable: the address of the UI that printed links lead to."""
_UI_FILE = "ui.txt"
"""Under the store's root: the address that the UI was last started at."""
_PROBE_BYTES = 4 * 2**20
_TIMEOUT = 60
_ATTEMPTS = 8
_CONFLICTS = (
    "IntegrityError", "UniqueViolation", "UNIQUE constraint failed", "DeadlockDetected",
    "SerializationFailure",
)  # fmt: skip
_POSTGRES_LOCK = 8_245_908_101
"""Number of the advisory lock that one process holds while it makes the tables."""
_PATIENCE = 120
"""Seconds to wait for a database that another process has locked."""

# What these would print, and the first with a traceback, `Client` raises as one sentence.
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
    """A copy of the database, which is read where the store itself cannot be written."""

    @property
    def web(self) -> str:
        """The address under which the UI shows this store: what VQLAB_UI says, else the server of
        MLFLOW_TRACKING_URI, else where `vqlab ui` was last started, else its default."""
        named = _ui_variable()
        if named:
            return named
        if self.artifacts is None:
            return without_password(self.uri)
        with contextlib.suppress(OSError, ValueError):
            return (self.root / _UI_FILE).read_text(encoding="utf-8").strip()
        return f"http://{UI_HOST}:{UI_PORT}"

    def run_folder(self, run_id: str) -> Path:
        """A run's folder on this machine, for what is no artifact (it may not exist)."""
        return self.root / "runs" / run_id


def locate(root: Path) -> Store:
    """The store that MLFLOW_TRACKING_URI names, else SQLite under `root`; nothing is touched.

    Raises UserError for an address of a kind that vqlab does not use.
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
    folder is created on this machine. write: False, for whatever only reads runs, takes a copy of
    the database where the store cannot be written.
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
    with told(store.root), _lock(store):
        if store.database and not store.copy:
            # Before MLflow, which tries a database that it cannot open again for hours.
            _check_database(store.database)
        client = Client(store)
        # The first question makes the tables (seconds), which two processes must not do at once.
        client.search_experiments(max_results=1)
        if store.database:
            _prepare_database(store.copy or store.database, store.database.parent / "artifacts")
    return client


def readable(store: Store) -> Store:
    """Return the store, its database replaced by a copy in a temporary folder if the store cannot
    be written: MLflow writes a database that it only reads from, too."""
    if store.database is None or _writable(store.database, store.database.parent):
        return store
    folder = Path(tempfile.mkdtemp(prefix="vqlab-read-only-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / store.database.name
    try:
        _copy_database(store.database, copy)
    except (OSError, sqlite3.Error) as error:
        raise UserError(
            f"the database {store.database} cannot be read ({error}); make it readable."
        ) from error
    return replace(store, uri=f"sqlite:///{copy}?timeout={_TIMEOUT}", copy=copy)


def _writable(*places: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in places)


def _copy_database(database: Path, copy: Path) -> None:
    """Copy a database that may be in use, with what is still in its write-ahead log."""
    with contextlib.suppress(sqlite3.OperationalError):  # it wants files that cannot be made
        address = f"{database.as_uri()}?mode=ro"
        with (
            contextlib.closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE)) as whole,
            contextlib.closing(sqlite3.connect(copy)) as part,
        ):
            whole.backup(part)
        return
    log = database.with_name(f"{database.name}-wal")
    for source in (database, log):
        if source.exists():
            shutil.copyfile(source, copy.with_name(source.name))


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
    hint = hint or "train or sweep first (make sweep), or name another folder with --mlruns."
    raise UserError(f"there are no tracked runs in {where} (it has no mlflow.db); {hint}")


def _lock(store: Store) -> contextlib.AbstractContextManager[object]:
    """Return a lock for opening the store, of all processes that use its database."""
    if store.copy:
        return contextlib.nullcontext()
    if store.database:
        return FileLock(store.database.parent / "store.lock")
    return contextlib.nullcontext() if store.artifacts is None else _postgres_lock(store.uri)


@contextlib.contextmanager
def _postgres_lock(uri: str) -> Iterator[None]:
    """Hold an advisory lock of the server, which ends with its connection."""
    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_POSTGRES_LOCK})"))
            connection.commit()
            yield
    finally:
        engine.dispose()


class Client:
    """MlflowClient, except that faults which a user can mend arrive as UserError, and that what
    another process inserted at the same time is no fault: the call is made again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        with warnings.catch_warnings():
            # MLflow 3.17 uses what SQLAlchemy 2.1 deprecates; nothing that we could mend.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._client = MlflowClient(store.uri, registry_uri=store.uri)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            given_up = time.monotonic() + _PATIENCE
            with told(self.store.root):
                for attempt in itertools.count():
                    try:
                        return method(*arguments, **named)
                    except MlflowException as error:
                        # MLflow waits 20 seconds for a lock itself. In both cases what it began is
                        # undone; after a conflict it finds what the other process inserted.
                        locked = "database is locked" in str(error)
                        again = locked and time.monotonic() < given_up
                        if not again and (attempt >= _ATTEMPTS or not _is_conflict(error)):
                            raise
                        # Unlike waits, so that the same two do not meet again.
                        time.sleep(0.2 if locked else 0.02 * (1 + os.getpid() % 7 + attempt))

        return call


def _is_conflict(error: MlflowException) -> bool:
    """Return whether a database refused a row because another process inserted it just before, or
    rolled one of two transactions back. Errors of a server arrive as text."""
    said = str(error)
    if error.error_code == "RESOURCE_ALREADY_EXISTS":
        return False
    return isinstance(error.__cause__, IntegrityError) or any(word in said for word in _CONFLICTS)


def probe(folder: Path) -> None:
    """Write, flush and remove a file of a few MiB. Raises UserError where that fails."""
    file = folder / f".probe-{os.getpid()}"
    with told(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as handle:
                handle.write(bytes(_PROBE_BYTES))
                handle.flush()
                os.fsync(handle.fileno())
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


@contextlib.contextmanager
def told(place: Path) -> Iterator[None]:
    """Turn what a full disk, a read-only place, a foreign database or a lost server raise into
    UserError; other errors pass."""
    try:
        yield
    except (MlflowException, OSError, sqlite3.Error, SQLAlchemyError) as error:
        sentence = _sentence(place, error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _sentence(place: Path, error: Exception) -> str | None:
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if (
        number in (errno.ENOSPC, errno.EDQUOT)
        or "disk is full" in text
        or ("disk I/O error" in text and shutil.disk_usage(place).free < _PROBE_BYTES)
    ):
        return f"{place} cannot be written: the disk is full; free some space and try again."
    if "database is locked" in text:
        return (
            f"the database in {place} has been locked by another process for {_PATIENCE} seconds; "
            "end that process, and run the same command again."
        )
    if "readonly database" in text or "unable to open database" in text:
        return f"the database in {place} cannot be written; make it writable, or move it away."
    if "not a database" in text or "disk image is malformed" in text:
        return f"the database in {place} is damaged or not SQLite's; move it away and try again."
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"the database in {place} was made by another version of MLflow; back it up and run "
            "`mlflow db upgrade` on it, or move it away."
        )
    if "API request to" in text and "failed with exception" in text:
        return "the tracking server of MLFLOW_TRACKING_URI no longer answers; check that it runs."
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"{place} must be a folder; move away the file of that name."
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{place} cannot be written: {os.strerror(number)}; make it writable."
    return None


def remember_ui(root: Path, host: str, port: int) -> None:
    """Record where the UI of the store under `root` is being started: printed links lead there.

    host: as browsers name it.
    """
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if not _writable(root):  # the default holds
        return
    with told(root):
        (root / _UI_FILE).write_text(address + "\n", encoding="utf-8")


def _ui_variable() -> str:
    return os.environ.get(UI_VARIABLE, "").strip().rstrip("/")


def without_password(uri: str) -> str:
    """An address as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _reach(uri: str) -> None:
    """Raise UserError where no server answers, rather than retry for minutes as MLflow does."""
    address = without_password(uri)
    try:
        urllib.request.urlopen(f"{address}/health", timeout=10).close()
    except urllib.error.HTTPError as error:  # it answers; 4xx is for MLflow's client to explain
        error.close()
        if error.code >= 500:
            raise UserError(
                f"the tracking server {address} is not well (status {error.code}); see its log."
            ) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"the tracking server {address} does not answer ({reason}); start it, or unset "
            "MLFLOW_TRACKING_URI."
        ) from None


def _check_database(database: Path) -> None:
    """Raise sqlite3.Error unless the file is SQLite's and can be written; made where missing."""
    with contextlib.closing(sqlite3.connect(database, timeout=_PATIENCE)) as connection:
        # A real write, undone: BEGIN IMMEDIATE alone also succeeds on a read-only file.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE vqlab_probe (x)")
        connection.rollback()


def _prepare_database(database: Path, here: Path) -> None:
    """WAL mode (it lasts), and artifact addresses that follow a folder which was moved or copied:
    MLflow stores absolute ones. here: the folder of the artifacts."""
    with contextlib.closing(sqlite3.connect(database, timeout=_PATIENCE)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        rows = connection.execute("SELECT experiment_id, artifact_location FROM experiments")
        for experiment, location in rows.fetchall():
            above, folder = str(location).rsplit("/", 1)
            folder = unquote(folder)
            new = (here / folder).as_uri()
            if location == new or not above.endswith("/artifacts") or not (here / folder).is_dir():
                continue
            with connection:
                connection.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                    "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (new, len(location) + 1, experiment, len(location), location),
                )
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (new, experiment),
                )
