"""Turn errors of a store that users can fix into UserErrors."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from vqlab.errors import UserError
from vqlab.tracking.database import LOCK_TIMEOUT

_PROBE_BYTES = 4 * 2**20
"""Bytes written to test whether a folder is writable."""


@contextlib.contextmanager
def user_errors(place: Path) -> Iterator[None]:
    """Turn errors of a full disk, a read-only folder, a foreign database or a lost server into
    UserError; other errors propagate."""
    try:
        yield
    except Exception as error:
        sentence = _sentence(place, error) if _is_of_store(error) else None
        if sentence is None:
            raise
        raise UserError(sentence) from error


def probe(folder: Path) -> None:
    """Check that a few MiB can be written to `folder`. Raises UserError if not."""
    file = folder / f".probe-{os.getpid()}"
    with user_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as handle:
                handle.write(bytes(_PROBE_BYTES))
                handle.flush()
                os.fsync(handle.fileno())
        except FileNotFoundError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror}.") from error
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _sentence(place: Path, error: Exception) -> str | None:
    """Return the message for an error of a store in `place`; None if it is unknown."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if (
        number in (errno.ENOSPC, errno.EDQUOT)
        or "disk is full" in text
        or ("disk I/O error" in text and shutil.disk_usage(place).free < _PROBE_BYTES)
    ):
        return (
            f"{place} cannot be written: the disk is full; free some space and re-run the command."
        )
    if "database is locked" in text:
        return (
            f"the database in {place} has been locked by another process for "
            f"{LOCK_TIMEOUT} seconds; end that process and re-run the command."
        )
    if "readonly database" in text or "unable to open database" in text:
        return f"the database in {place} cannot be written; make it writable, or move it away."
    if "not a database" in text or "disk image is malformed" in text:
        return f"the database in {place} is damaged or not SQLite; move it away and try again."
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"the database in {place} was created by another version of MLflow; back it up and run "
            "`mlflow db upgrade` on it, or move it away."
        )
    if "API request to" in text and "failed with exception" in text:
        return (
            "the tracking server of MLFLOW_TRACKING_URI no longer responds; check that it is "
            "running."
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"{place} must be a folder; move away the file of that name."
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{place} cannot be written: {os.strerror(number)}; make it writable."
    return None


def _is_of_store(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException

    return isinstance(error, (MlflowException, OSError, sqlite3.Error, SQLAlchemyError))
