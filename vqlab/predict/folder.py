"""Results folder of a prediction: locked by one process, replaced when the new one is complete.

A prediction is written to a hidden subfolder, with a journal line per file. When all files are
scored, pictures and tables are moved up. Moving within the folder also works if it is a link or a
mount point, or if its parent is not writable.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vqlab.predict.coco import COCO_NAME
from vqlab.predict.files import is_system
from vqlab.predict.pictures import SUFFIX
from vqlab.predict.rows import CSV_NAME, JSON_NAME, PredictedFile, read_rows, row_from
from vqlab.text import visible
from vqlab.types import UserError

Identity = list[int] | None
"""Size and modification time (ns) of a file; None if it cannot be read."""
PARTIAL, _LOCK = ".predict.partial", ".predict.lock"
_SETTINGS, _JOURNAL, _COMPLETE = "settings.json", "journal.jsonl", "complete"
_IDENTITY = "identity"


def identity_of(path: Path) -> Identity:
    """Return the size and time that detect changes of a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


class ResultsFolder:
    """Results folder, locked by `open_results`."""

    def __init__(self, name: Path, path: Path) -> None:
        self.name = name
        """Path as the user wrote it, for messages."""
        self.path = path
        """Real path."""
        self.partial = path / PARTIAL

    def start(self, settings: Mapping[str, Any]) -> None:
        """Start a new prediction with these settings; discard an interrupted one."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir()
        self._journal.touch()
        (self.partial / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")

    def resume(
        self, settings: Mapping[str, Any], reusable: Callable[[PredictedFile, Identity], bool]
    ) -> Iterator[PredictedFile]:
        """Yield the `reusable` rows of an interrupted prediction and discard the others.

        Starts a new prediction if there is none. Raises UserError, without discarding rows, if the
        settings or files differ, or if the prediction is complete.
        """
        try:
            previous = json.loads((self.partial / _SETTINGS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            if (self.path / CSV_NAME).exists():
                raise UserError(
                    f"there is nothing to resume: the prediction in {visible(self.name)} is "
                    "complete; omit --resume to score again."
                ) from None
            self.start(settings)
            return
        different = [name for name in settings if previous.get(name) != settings[name]]
        if different:
            raise UserError(
                f"the interrupted prediction in {visible(self.name)} can be resumed only with the "
                f"same {' and '.join(different)}; omit --resume to start over, or choose another "
                "folder with --output."
            )
        reused = self._journal.with_suffix(".kept")
        row, count = None, 0
        with reused.open("w", encoding="utf-8") as file:
            for line, tree in _lines(self._journal):
                row = row_from(tree)
                if reusable(row, tree[_IDENTITY]):
                    file.write(line)
                    count += 1
                    yield row
        if row is not None and not count:
            raise UserError(
                f"the interrupted prediction in {visible(self.name)} scored other files, e.g. "
                f"{visible(row.path)}; pass the same paths, or omit --resume to start over."
            )
        os.replace(reused, self._journal)

    @contextmanager
    def journal(self) -> Iterator[Callable[[PredictedFile, Identity], None]]:
        """Return a function that appends a row to the journal and flushes it."""
        with self._journal.open("a", encoding="utf-8") as file:

            def append(row: PredictedFile, identity: Identity) -> None:
                file.write(json.dumps({**asdict(row), _IDENTITY: identity}) + "\n")
                file.flush()

            yield append

    def rows(self) -> Iterator[PredictedFile]:
        """Yield the rows of the journal."""
        return (row_from(tree) for _, tree in _lines(self._journal))

    def complete(self) -> None:
        """Replace the previous prediction by the new one, after its tables were written."""
        (self.partial / _COMPLETE).touch()
        self.publish()

    def publish(self) -> None:
        """Move a complete prediction up, or the rest of it after an interruption."""
        if not (self.partial / _COMPLETE).exists():
            return
        if (self.partial / JSON_NAME).exists():
            pictures = {row.picture for row in read_rows(self.partial / JSON_NAME) if row.picture}
            for old in self.path.glob(f"*{SUFFIX}"):
                if old.name not in pictures:
                    old.unlink()
            if not (self.partial / COCO_NAME).exists():
                (self.path / COCO_NAME).unlink(missing_ok=True)
            for name in (*pictures, CSV_NAME, JSON_NAME):  # JSON last: it lists the pictures
                if (self.partial / name).exists():
                    os.replace(self.partial / name, self.path / name)
        if (self.partial / COCO_NAME).exists():
            os.replace(self.partial / COCO_NAME, self.path / COCO_NAME)
        shutil.rmtree(self.partial)

    @property
    def _journal(self) -> Path:
        return self.partial / _JOURNAL


@contextmanager
def open_results(results: Path) -> Iterator[ResultsFolder]:
    """Create the results folder if necessary, and lock it.

    Raises UserError if it cannot be written, contains other files, or is used by another
    prediction.
    """
    path = Path(os.path.realpath(results))
    foreign = sorted(p.name for p in path.glob("*") if not _is_output(p.name))
    if foreign:
        raise UserError(
            f"results folder {visible(results)} must be empty or written by predict; it contains "
            f"{visible(foreign[0])}; choose another with --output."
        )
    with locked(path / _LOCK, results, "prediction"):
        folder = ResultsFolder(results, path)
        folder.publish()
        yield folder


@contextmanager
def locked(lock: Path, output: Path, process: str) -> Iterator[None]:
    """Create the folder of a lock file if necessary, and hold the lock.

    output: path of the folder as the user wrote it. process: name of the writing process. Raises
    UserError if another process holds the lock, or the folder cannot be written.
    """
    file_lock = FileLock(lock, timeout=0)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire()
    except Timeout:
        raise UserError(
            f"another {process} is writing to {visible(output)}; stop it or wait until it ends, or "
            "choose another folder with --output."
        ) from None
    except OSError as error:
        raise UserError(
            f"output folder {visible(output)} cannot be written ({error.strerror}); choose another "
            "with --output."
        ) from None
    try:
        yield
    finally:
        file_lock.release()


def _is_output(name: str) -> bool:
    return name.endswith(SUFFIX) or name in (CSV_NAME, JSON_NAME, COCO_NAME) or is_system(name)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line and its values, without an incomplete last line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield line, json.loads(line)
