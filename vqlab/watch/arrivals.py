"""Find image files in a folder that are completely written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vqlab.data import IMAGE_SUFFIXES
from vqlab.predict.files import is_system
from vqlab.predict.folder import Identity


@dataclass(frozen=True)
class Arrival:
    """An image file whose size and modification time did not change for some time."""

    path: Path
    identity: Identity
    """Its size and modification time (ns)."""
    unchanged: float
    """Seconds for which they have not changed."""


class Arrivals:
    """Files of a folder that have not been judged yet. The folder is polled, because files written
    by other machines to network storage cause no event."""

    def __init__(
        self,
        folder: Path,
        exclude: Path,
        unchanged_for: float,
        judged: Callable[[Path], Identity],
    ) -> None:
        """exclude: folder that is not entered. unchanged_for: in seconds. judged: returns the
        identity of a file when it was last judged; None if it was not."""
        self.folder = folder
        self._exclude = exclude
        self._unchanged_for = unchanged_for
        self._judged = judged
        self._first_seen: dict[str, tuple[Identity, float]] = {}
        """Files that have not been judged: identity, and when it was first seen."""
        self._judged_files: dict[str, Identity] = {}
        """Judged files that are still in the folder."""

    @property
    def waiting(self) -> int:
        """Number of files that have not been judged."""
        return len(self._first_seen)

    def complete(self, now: float) -> list[Arrival]:
        """List the folder and return the complete files, oldest first.

        now: monotonic time in seconds. Raises OSError if the folder cannot be listed.
        """
        first_seen, judged_files = {}, {}
        for name, identity in _files(self.folder, self._exclude):
            judged = self._judged_files.get(name) or self._judged(Path(name))
            if judged == identity:
                judged_files[name] = judged
                continue
            before = self._first_seen.get(name)
            unchanged = before is not None and before[0] == identity
            first_seen[name] = before if before and unchanged else (identity, now)
        self._first_seen, self._judged_files = first_seen, judged_files
        arrivals = [
            Arrival(Path(name), identity, now - since)
            for name, (identity, since) in first_seen.items()
            if now - since >= self._unchanged_for
        ]
        return sorted(arrivals, key=lambda each: ((each.identity or [0, 0])[1], each.path))

    def remove(self, arrival: Arrival) -> None:
        """Mark an arrival as judged."""
        name = os.fspath(arrival.path)
        self._first_seen.pop(name, None)
        self._judged_files[name] = arrival.identity


def _files(folder: Path, exclude: Path) -> Iterator[tuple[str, Identity]]:
    """Yield path and identity of the image files below a folder, without hidden and system files.

    Links to files are followed; links to folders are not.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system(entry.name):
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if Path(entry.path) != exclude:
                        yield from _files(Path(entry.path), exclude)
                elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file():
                    status = entry.stat()
                    yield entry.path, [status.st_size, status.st_mtime_ns]
            except FileNotFoundError:  # removed meanwhile
                continue
