"""`parts.jsonl`: one JSON line per judged part, copied from the database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

from vqlab.errors import UserError
from vqlab.watch.store import Store

NAME = "parts.jsonl"
_BLOCK = 2**16


class Lines:
    """The file, complete after each `update`."""

    def __init__(self, output: Path, store: Store) -> None:
        """Open the file; remove a line that a killed process did not finish. Raises UserError if it
        does not belong to the database."""
        self._store = store
        self._file = (output / NAME).open("a+b")
        try:
            end, self._last = _last_line(self._file)
        except (ValueError, TypeError, KeyError):
            end, self._last = 0, store.next_part()
        if self._last >= store.next_part():
            self._file.close()
            raise UserError(
                f"{output / NAME} must be a copy of {store.path}; it has other lines; move it away "
                "or choose another folder with --output."
            )
        self._file.truncate(end)
        self.update()

    def update(self) -> None:
        """Append the lines of the parts that follow the last one."""
        for line in self._store.lines(self._last):
            self._file.write(line.encode() + b"\n")
            self._last = int(json.loads(line)["part"])
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _last_line(file: BinaryIO) -> tuple[int, int]:
    """Return the end of the last complete line in bytes, and the number of its part (0: none)."""
    end = file.seek(0, 2)
    start, tail = end, b""
    while start > 0 and tail.count(b"\n") < 2:
        start = max(0, start - _BLOCK)
        file.seek(start)
        tail = file.read(end - start)
    head, newline, unfinished = tail.rpartition(b"\n")
    if not newline:
        return 0, 0
    return end - len(unfinished), int(json.loads(head.rpartition(b"\n")[2])["part"])
