"""The results folder of a prediction: written by one process, replaced when the new one is whole.

A prediction is written to a hidden folder inside, a journal line per file. When every file has its
line, pictures and tables are moved up. Moving within the folder works as well where the folder is
a link or a mount point, or its parent cannot be written.
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

from vqlab.predict.files import is_system
from vqlab.predict.pictures import SUFFIX
from vqlab.predict.rows import CSV_NAME, JSON_NAME, PredictedFile, read_rows, row_of
from vqlab.text import visible
from vqlab.types import UserError

Identity = list[int] | None
"""Size and modification time (ns) of a file; none where it has none."""
PARTIAL, _LOCK = ".predict.partial", ".predict.lock"
_SETTINGS, _JOURNAL, _COMPLETE = "settings.json", "journal.jsonl", "complete"
_IDENTITY = "identity"


def identity_of(path: Path) -> Identity:
    """Return what tells whether a file has changed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


class ResultsFolder:
    """The results folder, locked by `open_results`."""

    def __init__(self, shown: Path, path: Path) -> None:
        self.shown = shown
        """As the user wrote it."""
        self.path = path
        """Without links."""
        self.partial = path / PARTIAL

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin a new prediction with these settings; one that was interrupted is dropped."""
        shutil.rmtree(self.partial, ignore_errors=True)
        self.partial.mkdir()
        self._journal.touch()
        (self.partial / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")

    def resume(
        self, settings: Mapping[str, Any], reusable: Callable[[PredictedFile, Identity], bool]
    ) -> Iterator[PredictedFile]:
        """Yield the rows of an interrupted prediction that are `reusable`; keep no others.

        Where there is no prediction, begin one. Raises UserError, and keeps the rows, where it was
        made with other settings or of other files; also where it is complete.
        """
        try:
            earlier = json.loads((self.partial / _SETTINGS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            if (self.path / CSV_NAME).exists():
                raise UserError(
                    f"there is nothing to resume: the prediction in {visible(self.shown)} is "
                    "complete; leave out --resume to score again."
                ) from None
            self.start(settings)
            return
        different = [name for name in settings if earlier.get(name) != settings[name]]
        if different:
            raise UserError(
                f"the prediction interrupted in {visible(self.shown)} can be resumed only with the "
                f"same {' and '.join(different)}; leave out --resume to start over, or choose "
                "another folder with --results."
            )
        kept = self._journal.with_suffix(".kept")
        row, count = None, 0
        with kept.open("w", encoding="utf-8") as file:
            for line, tree in _lines(self._journal):
                row = row_of(tree)
                if reusable(row, tree[_IDENTITY]):
                    file.write(line)
                    count += 1
                    yield row
        if row is not None and not count:
            raise UserError(
                f"the prediction interrupted in {visible(self.shown)} scored other files, e.g. "
                f"{visible(row.path)}; give the same paths, or leave out --resume to start over."
            )
        os.replace(kept, self._journal)

    @contextmanager
    def journal(self) -> Iterator[Callable[[PredictedFile, Identity], None]]:
        """Give what appends a row to the journal, at once on the disk's side of this process."""
        with self._journal.open("a", encoding="utf-8") as file:

            def append(row: PredictedFile, identity: Identity) -> None:
                file.write(json.dumps({**asdict(row), _IDENTITY: identity}) + "\n")
                file.flush()

            yield append

    def rows(self) -> Iterator[PredictedFile]:
        """Yield the rows of the journal."""
        for _, tree in _lines(self._journal):
            yield row_of(tree)

    def complete(self) -> None:
        """Replace the folder's earlier prediction by the new one, whose tables are written."""
        (self.partial / _COMPLETE).touch()
        self.publish()

    def publish(self) -> None:
        """Move a complete prediction up; after an interruption, move up the rest of it."""
        if not (self.partial / _COMPLETE).exists():
            return
        if (self.partial / JSON_NAME).exists():
            pictures = {row.picture for row in read_rows(self.partial / JSON_NAME) if row.picture}
            for name in pictures:
                if (self.partial / name).exists():
                    os.replace(self.partial / name, self.path / name)
            for old in self.path.glob(f"*{SUFFIX}"):
                if old.name not in pictures:
                    old.unlink()
        for name in (CSV_NAME, JSON_NAME):  # the second last: it lists the pictures
            if (self.partial / name).exists():
                os.replace(self.partial / name, self.path / name)
        shutil.rmtree(self.partial)

    @property
    def _journal(self) -> Path:
        return self.partial / _JOURNAL


@contextmanager
def open_results(results: Path) -> Iterator[ResultsFolder]:
    """Lock the results folder, created where it does not exist. A link to a folder stays one.

    Raises UserError where it cannot be written, holds files that are not a prediction's, or
    another prediction is being written to it.
    """
    path = Path(os.path.realpath(results))
    strangers = sorted(p.name for p in path.glob("*") if not _is_ours(p.name))
    if strangers:
        raise UserError(
            f"results folder {visible(results)} must be empty or written by an earlier predict; it "
            f"holds {visible(strangers[0])}; choose another with --results."
        )
    lock = FileLock(path / _LOCK, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another prediction is being written to {visible(results)}; wait until it ends, or "
            "choose another folder with --results."
        ) from None
    except OSError as error:
        raise UserError(
            f"results folder {visible(results)} cannot be written ({error.strerror}); choose "
            "another with --results."
        ) from None
    try:
        folder = ResultsFolder(results, path)
        folder.publish()
        yield folder
    finally:
        lock.release()


def _is_ours(name: str) -> bool:
    return name.endswith(SUFFIX) or name in (CSV_NAME, JSON_NAME) or is_system(name)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line and its values; a last line that was cut by an interruption is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            yield line, json.loads(line)
