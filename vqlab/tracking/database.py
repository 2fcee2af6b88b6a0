"""The SQLite database of a store: check, prepare and copy it. MLflow is not imported."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from urllib.parse import unquote

LOCK_TIMEOUT = 120
"""Seconds to wait for a locked database."""
_ARTIFACT_URIS = (
    ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
"""Columns of MLflow's tables with absolute addresses of artifacts."""


def check_database(database: Path) -> None:
    """Raise sqlite3.Error unless the file is a writable SQLite database; create it if missing."""
    with contextlib.closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT)) as connection:
        # BEGIN IMMEDIATE alone also succeeds on a read-only file.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE vqlab_probe (x)")
        connection.rollback()


def prepare_database(database: Path, artifacts: Path) -> None:
    """Enable WAL mode, and update artifact URIs (absolute in MLflow) if the folder was moved.

    artifacts: current folder of the artifacts.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        rows = connection.execute("SELECT experiment_id, artifact_location FROM experiments")
        for experiment, location in rows.fetchall():
            above, folder = str(location).rsplit("/", 1)
            folder = unquote(folder)
            new = (artifacts / folder).as_uri()
            if (
                location == new
                or not above.endswith("/artifacts")
                or not (artifacts / folder).is_dir()
            ):
                continue
            prefix = f"{location}/"
            with connection:
                for table, column in _ARTIFACT_URIS:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                        f"WHERE substr({column}, 1, ?) = ?",
                        (new, len(prefix), len(prefix), prefix),
                    )
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (new, experiment),
                )


def is_writable(*places: Path) -> bool:
    """Return whether this process may write all of these files and folders."""
    effective = os.access in os.supports_effective_ids
    return all(os.access(place, os.W_OK, effective_ids=effective) for place in places)


def copy_database(database: Path, copy: Path) -> None:
    """Copy a database that may be in use, including its write-ahead log."""
    with contextlib.suppress(sqlite3.OperationalError):  # it may need to create files
        address = f"{database.as_uri()}?mode=ro"
        with (
            contextlib.closing(
                sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT)
            ) as source_db,
            contextlib.closing(sqlite3.connect(copy)) as target_db,
        ):
            source_db.backup(target_db)
        return
    log = database.with_name(f"{database.name}-wal")
    for source in (database, log):
        if source.exists():
            shutil.copyfile(source, copy.with_name(source.name))
