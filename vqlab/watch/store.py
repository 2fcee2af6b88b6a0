"""State of a watched folder, in SQLite: judged parts, drift tests, and events to deliver.

A part, the state of its drift test and its events are written in one transaction, so that a killed
process judges no file twice and loses none.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from vqlab.errors import UserError
from vqlab.predict.folder import Identity
from vqlab.predict.rows import file_text
from vqlab.watch.martingale import ChangeMartingale
from vqlab.watch.streams import SCORE

NAME = "watch.db"
_VERSION = 2
_TIMEOUT = 30.0
_SCHEMA = """
CREATE TABLE watch (id TEXT NOT NULL, folder TEXT NOT NULL);
CREATE TABLE tests (
  id INTEGER PRIMARY KEY, model TEXT NOT NULL, level REAL NOT NULL, count INTEGER NOT NULL,
  accounts TEXT NOT NULL, alarm TEXT
);
CREATE TABLE parts (
  id INTEGER PRIMARY KEY, test INTEGER NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL,
  modified INTEGER NOT NULL, verdict TEXT NOT NULL, score REAL, brightness REAL, sharpness REAL,
  concept INTEGER, log_wealth REAL, line TEXT NOT NULL, target TEXT, noise REAL, log_wealths TEXT
);
CREATE INDEX parts_file ON parts (file);
CREATE INDEX parts_target ON parts (target);
CREATE TABLE placements (part INTEGER PRIMARY KEY, mode TEXT NOT NULL);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT ''
)
"""
_UPGRADES = {
    1: ("ALTER TABLE parts ADD COLUMN noise REAL", "ALTER TABLE parts ADD COLUMN log_wealths TEXT")
}
"""Statements that change a database of a version into one of the next."""


@dataclass(frozen=True)
class Part:
    """A judged part: the columns that describe it."""

    id: int
    file: str
    """Path, see `file_text`."""
    identity: Identity
    verdict: str
    score: float | None
    """None if the file is unreadable; it is then not tested."""
    brightness: float | None
    sharpness: float | None
    concept: int | None
    log_wealth: float | None
    """Logarithm of the largest weighted wealth of a stream after this part, see `DriftStreams`."""
    line: str
    """Its line in `parts.jsonl`."""
    target: str | None
    """Path that its file is moved or copied to, see `file_text`; None: not sorted."""
    noise: float | None = None
    log_wealths: dict[str, float] = field(default_factory=dict)
    """Logarithm of the wealth by stream; empty for parts judged by earlier versions."""


@dataclass(frozen=True)
class TestState:
    """A drift test as stored."""

    id: int
    model: str
    level: float
    count: int
    accounts: dict[str, list[float]]
    """Accounts of the martingale by stream, see `ChangeMartingale`."""
    alarm: dict[str, Any] | None

    @property
    def martingales(self) -> dict[str, ChangeMartingale]:
        """The martingale of each stream."""
        return {name: ChangeMartingale(self.count, each) for name, each in self.accounts.items()}


@dataclass(frozen=True)
class Event:
    """An event to deliver to the webhook."""

    id: int
    body: str
    attempts: int


def latest_test(database: sqlite3.Connection) -> TestState | None:
    """Return the latest test in a database; None if there is none."""
    sql = "SELECT id, model, level, count, accounts, alarm FROM tests ORDER BY id DESC LIMIT 1"
    row = database.execute(sql).fetchone()
    if row is None:
        return None
    number, model, level, count, accounts, alarm = row
    accounts = json.loads(accounts)
    if isinstance(accounts, list):  # of an earlier version, which tested only the score
        accounts = {SCORE: accounts}
    return TestState(number, model, level, count, accounts, alarm and json.loads(alarm))


class Store:
    """Connection to the state; one for each thread."""

    def __init__(self, output: Path, folder: Path) -> None:
        """Open `watch.db` in `output`; create it if necessary. Raises UserError if it belongs to
        another folder, or cannot be used."""
        self.path = output / NAME
        try:
            self._database = sqlite3.connect(self.path, timeout=_TIMEOUT, isolation_level=None)
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._prepare(folder)
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path} must be a database of vqlab watch; SQLite reports: {error}; choose "
                "another folder with --output."
            ) from None

    def _prepare(self, folder: Path) -> None:
        with self.transaction():
            version = self._fetch_one("PRAGMA user_version")[0]
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                self._execute("INSERT INTO watch VALUES (?, ?)", uuid4().hex, file_text(folder))
                self._database.execute(f"PRAGMA user_version = {_VERSION}")
            elif version > _VERSION:
                raise UserError(
                    f"{self.path} must have version {_VERSION}; got {version}; update vqlab."
                )
            else:
                for earlier in range(version, _VERSION):
                    for statement in _UPGRADES[earlier]:
                        self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {_VERSION}")
        self.id, watched = self._fetch_one("SELECT id, folder FROM watch")
        if watched != file_text(folder):
            raise UserError(
                f"{self.path} belongs to the folder {watched}; choose another --output for "
                f"{folder}."
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the statements in this block together, or none of them."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    # Parts

    def next_part(self) -> int:
        """Return the number of the next part, from 1."""
        return int(self._fetch_one("SELECT coalesce(max(id), 0) + 1 FROM parts")[0])

    def judged(self, path: Path) -> Identity:
        """Return the identity of a file when it was last judged; None if it was not."""
        sql = "SELECT size, modified FROM parts WHERE file = ? ORDER BY id DESC LIMIT 1"
        row = self._database.execute(sql, (file_text(path),)).fetchone()
        return None if row is None else list(row)

    def has_target(self, target: str) -> bool:
        """Return whether the file of a part has this target."""
        sql = "SELECT EXISTS (SELECT 1 FROM parts WHERE target = ?)"
        return bool(self._fetch_one(sql, target)[0])

    def add(self, part: Part, test: int, mode: str) -> None:
        """Add a part to a test, and queue its file to be sorted if it has a target."""
        size, modified = part.identity or (0, 0)
        values = (
            part.id, test, part.file, size, modified, part.verdict, part.score, part.brightness,
            part.sharpness, part.concept, part.log_wealth, part.line, part.target, part.noise,
            json.dumps(part.log_wealths),
        )  # fmt: skip
        self._execute(f"INSERT INTO parts VALUES ({', '.join('?' * len(values))})", *values)
        if part.target is not None:
            self._execute("INSERT INTO placements VALUES (?, ?)", part.id, mode)

    def parts(self, test: int, after: int = 0, until: int | None = None) -> Iterator[Part]:
        """Yield the parts of a test in order, from the one following `after` to `until`."""
        last = self.next_part() if until is None else until
        sql = "SELECT * FROM parts WHERE test = ? AND id > ? AND id <= ? ORDER BY id"
        return map(_part, self._database.execute(sql, (test, after, last)))

    def lines(self, after: int) -> Iterator[str]:
        """Yield the lines of the parts following `after`, in order."""
        rows = self._database.execute("SELECT line FROM parts WHERE id > ? ORDER BY id", (after,))
        return (row[0] for row in rows)

    def counts(self) -> dict[str, int]:
        """Return the number of parts by verdict."""
        rows = self._database.execute("SELECT verdict, count(*) FROM parts GROUP BY verdict")
        return {verdict: count for verdict, count in rows}

    def unplaced(self) -> list[tuple[Part, str]]:
        """Return the parts whose file is still to be sorted, with the mode (`move` or `copy`)."""
        sql = "SELECT parts.*, mode FROM placements JOIN parts ON parts.id = part ORDER BY part"
        return [(_part(row), row["mode"]) for row in self._database.execute(sql)]

    def placed(self, part: int) -> None:
        """Mark the file of a part as sorted."""
        self._execute("DELETE FROM placements WHERE part = ?", part)

    # Drift tests

    def test(self) -> TestState | None:
        """Return the latest test; None if there is none."""
        return latest_test(self._database)

    def start_test(self, model: str, level: float, streams: Iterable[str]) -> TestState:
        """Start a test of these streams for the parts of a model with this digest."""
        sql = "INSERT INTO tests (model, level, count, accounts) VALUES (?, ?, 0, ?)"
        self._execute(sql, model, level, json.dumps({name: [] for name in streams}))
        test = self.test()
        assert test is not None
        return test

    def update_test(
        self, test: int, count: int, martingales: Mapping[str, ChangeMartingale]
    ) -> None:
        """Store the number of tested parts, and the martingale of each stream of a test."""
        accounts = {name: martingale.accounts for name, martingale in martingales.items()}
        sql = "UPDATE tests SET count = ?, accounts = ? WHERE id = ?"
        self._execute(sql, count, json.dumps(accounts), test)

    def add_alarm(self, test: int, alarm: dict[str, Any]) -> None:
        """Store the alarm of a test."""
        self._execute("UPDATE tests SET alarm = ? WHERE id = ?", json.dumps(alarm), test)

    # Events

    def add_event(self, body: str) -> None:
        """Add an event to deliver."""
        self._execute("INSERT INTO events (body) VALUES (?)", body)

    def next_event(self, now: float) -> Event | None:
        """Return the event that is due first; None if none is due. now: Unix time."""
        sql = "SELECT id, body, attempts FROM events WHERE due <= ? ORDER BY due, id LIMIT 1"
        row = self._database.execute(sql, (now,)).fetchone()
        return None if row is None else Event(*row)

    def delivered(self, event: int) -> None:
        """Remove a delivered event."""
        self._execute("DELETE FROM events WHERE id = ?", event)

    def failed(self, event: int, error: str, due: float) -> None:
        """Store why an event could not be delivered, and when to try again (Unix time)."""
        sql = "UPDATE events SET attempts = attempts + 1, error = ?, due = ? WHERE id = ?"
        self._execute(sql, error, due, event)

    def undelivered(self) -> tuple[int, str]:
        """Return the number of events to deliver, and the latest reason for a failure."""
        sql = "SELECT error FROM events ORDER BY due DESC, id DESC LIMIT 1"
        row = self._database.execute(sql).fetchone()
        return int(self._fetch_one("SELECT count(*) FROM events")[0]), row[0] if row else ""

    def _fetch_one(self, sql: str, *values: Any) -> sqlite3.Row:
        row: sqlite3.Row = self._database.execute(sql, values).fetchone()
        return row

    def _execute(self, sql: str, *values: Any) -> None:
        self._database.execute(sql, values)


def _part(row: sqlite3.Row) -> Part:
    values = dict(zip(row.keys(), tuple(row), strict=True))
    identity = [values.pop("size"), values.pop("modified")]
    log_wealths = json.loads(values.pop("log_wealths") or "{}")
    names = {each.name for each in fields(Part)}
    columns = {name: value for name, value in values.items() if name in names}
    return Part(**columns, identity=identity, log_wealths=log_wealths)
