"""The history of a server: judged images and human verdicts on them, in SQLite.

The database is in WAL mode and every call is one transaction, so that several requests and
processes can use it at once and a killed process loses no completed call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from vqlab.errors import UserError
from vqlab.text import storable

FOLDER = "inspection"
"""Folder of the history in the folder of runs."""
PersonVerdict = Literal["good", "defect", "unsure"]
"""Human verdict on an image."""
PERSON_VERDICTS: tuple[PersonVerdict, ...] = get_args(PersonVerdict)
Role = Literal["train", "threshold", "test"]
"""Use of an image: training, choosing thresholds, or testing."""
RecordedRole = Role | Literal["mixed"]
"""`mixed`: a test image in one category with another role in another category; cannot be used."""
PAGE = 1000
"""Maximum number of rows that `History.rows` returns."""
logger = logging.getLogger("vqlab.serve")
_VERSION = 1
_TIMEOUT = 30.0
_LARGEST = 2**63 - 1
_SCHEMA = """
CREATE TABLE judged (
  id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, category TEXT NOT NULL,
  version INTEGER NOT NULL, run_id TEXT NOT NULL, name TEXT NOT NULL, pixels TEXT NOT NULL,
  score REAL NOT NULL, calibrated REAL, p_value REAL, verdict TEXT NOT NULL,
  threshold REAL NOT NULL, review_threshold REAL, regions INTEGER NOT NULL
);
CREATE INDEX judged_pixels ON judged (category, pixels);
CREATE TABLE feedback (
  id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, category TEXT NOT NULL,
  pixels TEXT NOT NULL, file TEXT NOT NULL, name TEXT NOT NULL, verdict TEXT NOT NULL
);
CREATE INDEX feedback_pixels ON feedback (category, pixels);
CREATE TABLE roles (
  category TEXT NOT NULL, pixels TEXT NOT NULL, role TEXT NOT NULL, time TEXT NOT NULL,
  PRIMARY KEY (category, pixels)
);
"""


class HistoryError(UserError):
    """The history cannot be read or written."""


@dataclass(frozen=True)
class Judged:
    """An image that a model judged."""

    category: str
    version: int
    run_id: str
    name: str
    """As the client sent it: text, never a path."""
    pixels: str
    """Digest of the decoded pixels, see `pixels_digest`."""
    score: float
    calibrated: float | None
    p_value: float | None
    verdict: str
    """`pass`, `review` or `reject`."""
    threshold: float
    review_threshold: float | None
    regions: int
    """Number of defect regions."""


@dataclass(frozen=True)
class Feedback:
    """The latest human verdict on an image."""

    pixels: str
    file: str
    """Name of the stored image in `History.images`."""
    name: str
    verdict: PersonVerdict
    time: str


@dataclass(frozen=True)
class HistoryFilter:
    """Which judged images to return; None and empty: all."""

    category: str | None = None
    verdict: str | None = None
    """`pass`, `review` or `reject`."""
    person: str | None = None
    """`good`, `defect`, `unsure`, or `none` for images without a human verdict."""
    name: str = ""
    """Part of the name; the case of ASCII letters is ignored."""
    since: str | None = None
    """Earliest time, ISO 8601 in UTC."""
    until: str | None = None
    """Latest time."""


COLUMNS = ("id", "time", *(part.name for part in fields(Judged)), "person", "role")
"""Columns of `History.rows`."""
_COLUMNS = tuple(part.name for part in fields(Judged))
_ROWS = f"""
SELECT j.id, j.time, {", ".join(f"j.{name}" for name in _COLUMNS)}, f.verdict AS person, r.role
FROM judged j
LEFT JOIN feedback f ON f.id = (
  SELECT max(id) FROM feedback WHERE category = j.category AND pixels = j.pixels)
LEFT JOIN roles r ON r.category = j.category AND r.pixels = j.pixels
"""


class History:
    """Judged images and human verdicts. Thread-safe; opens the database on each call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "history.db"

    @property
    def images(self) -> Path:
        """Folder of the images with a human verdict."""
        return self.folder / "images"

    @property
    def exists(self) -> bool:
        return self._file.is_file()

    def add(self, judged: Iterable[Judged]) -> None:
        """Add judged images. Raises HistoryError if the database cannot be written."""
        now = _now()
        names = ("time", *_COLUMNS)
        sql = f"INSERT INTO judged ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        values = [(now, *_storable(asdict(each).values())) for each in judged]
        with self._connect() as database:
            database.executemany(sql, values)

    def rows(
        self, where: HistoryFilter | None = None, limit: int = PAGE, before: int | None = None
    ) -> list[dict[str, Any]]:
        """Return judged images, latest first: a dict of `COLUMNS` each.

        before: only images with a lower `id`; pass the last one to get the next rows.
        """
        clause, values = _clause(where or HistoryFilter())
        last = _LARGEST if before is None else before
        sql = f"{_ROWS} {clause} AND j.id < ? ORDER BY j.id DESC LIMIT ?"
        with self._connect() as database:
            return [dict(row) for row in database.execute(sql, (*values, last, limit))]

    def count(self, where: HistoryFilter | None = None) -> int:
        """Return the number of judged images."""
        clause, values = _clause(where or HistoryFilter())
        with self._connect() as database:
            row = database.execute(f"SELECT count(*) FROM ({_ROWS} {clause})", values).fetchone()
        return int(row[0])

    def store(
        self, category: str, pixels: str, name: str, suffix: str, content: bytes, verdict: str
    ) -> Feedback:
        """Store a human verdict on an image, and the image if it is not stored yet.

        suffix: of the image's format, e.g. `.png`. Raises UserError for an unknown verdict,
        HistoryError if the folder cannot be written.
        """
        if verdict not in PERSON_VERDICTS:
            raise UserError(
                f"verdict must be one of {', '.join(PERSON_VERDICTS)}; got {verdict!r}."
            )
        with self._connect() as database:
            stored = database.execute(
                "SELECT file FROM feedback WHERE category = ? AND pixels = ?", (category, pixels)
            ).fetchone()
            file = stored["file"] if stored else f"{pixels}{suffix}"
            if not (self.images / file).is_file():
                self._write(file, content)
            feedback = Feedback(pixels, file, storable(name), verdict, _now())
            database.execute(
                "INSERT INTO feedback (category, time, pixels, file, name, verdict) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (storable(category), feedback.time, pixels, file, feedback.name, verdict),
            )
        return feedback

    def feedback(self, category: str) -> list[Feedback]:
        """Return the latest verdict on each image of a category, by digest."""
        with self._connect() as database:
            rows = database.execute(
                "SELECT pixels, file, name, verdict, time FROM feedback WHERE id IN (SELECT "
                "max(id) FROM feedback WHERE category = ? GROUP BY pixels) ORDER BY pixels",
                (category,),
            ).fetchall()
        return [Feedback(**row) for row in rows]

    def roles(self, *categories: str) -> dict[str, RecordedRole]:
        """Return the roles that `vqlab feedback` gave to images of these categories, by digest;
        `mixed` for a test image of one category that has another role in another."""
        with self._connect() as database:
            rows = database.execute(
                "SELECT pixels, CASE WHEN min(role = 'test') = max(role = 'test') THEN max(role) "
                "ELSE 'mixed' END AS role FROM roles "
                f"WHERE category IN ({', '.join('?' * len(categories))}) GROUP BY pixels",
                categories,
            ).fetchall()
        return {row["pixels"]: row["role"] for row in rows}

    def set_roles(self, category: str, roles: dict[str, Role]) -> None:
        """Record the roles of images; a role that is recorded already never changes."""
        now = _now()
        with self._connect() as database:
            database.executemany(
                "INSERT OR IGNORE INTO roles (category, pixels, role, time) VALUES (?, ?, ?, ?)",
                [(category, pixels, role, now) for pixels, role in roles.items()],
            )

    def _write(self, name: str, content: bytes) -> None:
        """Write an image atomically."""
        self.images.mkdir(exist_ok=True)
        temporary = self.images / f".{name}.{os.getpid()}.{os.urandom(4).hex()}.part"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.images / name)
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one transaction; create it if necessary."""
        try:
            if not _is_created(self._file):
                self.folder.mkdir(parents=True, exist_ok=True)
                _create(self._file)
            with contextlib.closing(sqlite3.connect(self._file, timeout=_TIMEOUT)) as database:
                database.row_factory = sqlite3.Row
                _check_version(database, self._file)
                with database:
                    yield database
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise HistoryError(
                f"the history in {self.folder} cannot be used: {reason}; check its permissions "
                "and the free space."
            ) from None


def _check_version(database: sqlite3.Connection, file: Path) -> None:
    """Raise HistoryError unless this version of vqlab can use the database."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version != _VERSION:
        raise HistoryError(f"{file} must have version {_VERSION}; got {version}; update vqlab.")


def _create(file: Path) -> None:
    """Create the database unless another thread or process has created it.

    The file gets its name when it is complete: SQLite cannot enable WAL mode while other
    connections read.
    """
    with FileLock(file.with_suffix(".lock")):
        if _is_created(file):
            return
        with tempfile.TemporaryDirectory(prefix=".new-", dir=file.parent) as folder:
            new = Path(folder) / file.name
            with contextlib.closing(sqlite3.connect(new)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.executescript(_SCHEMA)
                database.execute(f"PRAGMA user_version = {_VERSION}")
            os.replace(new, file)


def _is_created(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _clause(where: HistoryFilter) -> tuple[str, Sequence[str]]:
    terms = {
        "j.category = ?": where.category,
        "j.verdict = ?": where.verdict,
        "instr(lower(j.name), lower(?)) > 0": where.name or None,
        "j.time >= ?": where.since,
        "j.time <= ?": where.until,
        "f.verdict = ?": None if where.person == "none" else where.person,
    }
    used = {term: value for term, value in terms.items() if value is not None}
    conditions = [*used, *(["f.verdict IS NULL"] if where.person == "none" else [])]
    return "WHERE " + " AND ".join(["TRUE", *conditions]), tuple(used.values())


def _storable(values: Iterable[Any]) -> Iterator[Any]:
    return (storable(value) if isinstance(value, str) else value for value in values)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
