"""Which images of a prediction have a picture, and the names of the pictures."""

from __future__ import annotations

import heapq
import re
import unicodedata
from pathlib import Path

from vqlab.predict.rows import PredictedFile
from vqlab.text import visible
from vqlab.types import UserError

SUFFIX = "_viz.png"
MODES = ("auto", "all", "none")
MOST = 200
"""Pictures at most with `auto`: those of the images with the highest scores."""
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_LONGEST = 110
"""Bytes of a file's or folder's name that a picture's name repeats."""


def require_mode(mode: str) -> None:
    """Raise UserError unless `mode` is one of `MODES`."""
    if mode not in MODES:
        raise UserError(f"--pictures must be one of {', '.join(MODES)}; got {mode!r}.")


class Pictures:
    """The pictures in the folder of a prediction that is being written.

    With `auto` these are at any time the `MOST` highest scores so far: a picture that falls out is
    deleted, so one pass suffices.
    """

    def __init__(self, mode: str, folder: Path) -> None:
        self.mode = mode
        self.folder = folder
        self._highest: list[tuple[float, int, str]] = []
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}

    def wanted(self, score: float) -> bool:
        """Return whether an image of this score has a picture, after those added so far."""
        if self.mode == "auto" and len(self._highest) == MOST:
            return score > self._highest[0][0]
        return self.mode != "none"

    def add(self, row: PredictedFile) -> None:
        """Register the picture of a row; delete the one that falls out of the highest scores."""
        if not row.picture or row.score is None:
            return
        self._names.add(_key(row.picture))
        if self.mode == "auto":
            heapq.heappush(self._highest, (row.score, -len(self._names), row.picture))
            if len(self._highest) > MOST:
                _, _, name = heapq.heappop(self._highest)
                (self.folder / name).unlink(missing_ok=True)

    def name(self, path: Path) -> str:
        """Return a new name for the picture of a file.

        The name of the file, with that of its folder where another picture has it. It is valid on
        every file system, also on one that ignores case.
        """
        stem = _safe(path.stem)
        longer = f"{_safe(path.absolute().parent.name)}_{stem}"
        for name in (f"{stem}{SUFFIX}", f"{longer}{SUFFIX}"):
            if _key(name) not in self._names:
                return name
        number = self._numbers.get(longer, 1)
        while True:
            number += 1
            name = f"{longer}_{number}{SUFFIX}"
            if _key(name) not in self._names:
                self._numbers[longer] = number
                return name


def _safe(name: str) -> str:
    """Return a part of a file name that every file system accepts."""
    text = _UNSAFE.sub("_", visible(name))
    return text.encode()[:_LONGEST].decode(errors="ignore")


def _key(name: str) -> str:
    """Return what is equal for names that a file system may take for the same."""
    return unicodedata.normalize("NFC", name).casefold()
