"""Select the images of a prediction that get a picture, and name the pictures."""

from __future__ import annotations

import heapq
import re
import unicodedata
from pathlib import Path

from vqlab.predict.rows import PredictedFile
from vqlab.text import visible

SUFFIX = "_viz.png"
MODES = ("auto", "all", "none")
MAX_AUTO = 200
"""Maximum number of pictures with `auto`: the images with the highest scores."""
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_MAX_BYTES = 110
"""Bytes of a file or folder name that are kept in a picture's name."""


class Pictures:
    """Pictures in the folder of a prediction in progress.

    With `auto` these are always the `MAX_AUTO` highest scores so far; a picture that drops out is
    deleted, so that one pass suffices.
    """

    def __init__(self, mode: str, folder: Path) -> None:
        self.mode = mode
        self.folder = folder
        self._highest: list[tuple[float, int, str]] = []
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}

    def accepts(self, score: float) -> bool:
        """Return whether an image with this score gets a picture, given those added so far."""
        if self.mode == "auto" and len(self._highest) == MAX_AUTO:
            return score > self._highest[0][0]
        return self.mode != "none"

    def add(self, row: PredictedFile) -> None:
        """Register the picture of a row; delete the one that drops out of the highest scores."""
        if not row.picture or row.score is None:
            return
        self._names.add(_key(row.picture))
        if self.mode == "auto":
            heapq.heappush(self._highest, (row.score, -len(self._names), row.picture))
            if len(self._highest) > MAX_AUTO:
                _, _, name = heapq.heappop(self._highest)
                (self.folder / name).unlink(missing_ok=True)

    def name(self, path: Path) -> str:
        """Return a unique name for the picture of a file: the file's name, prefixed by its folder's
        if it is taken. Valid on every file system, including case-insensitive ones."""
        stem = _safe(path.stem)
        longer = f"{_safe(path.absolute().parent.name)}_{stem}"
        for name in (f"{stem}{SUFFIX}", f"{longer}{SUFFIX}"):
            if _key(name) not in self._names:
                return name
        number = self._numbers.get(longer, 2)
        while _key(f"{longer}_{number}{SUFFIX}") in self._names:
            number += 1
        self._numbers[longer] = number
        return f"{longer}_{number}{SUFFIX}"


def _safe(name: str) -> str:
    """Return a part of a file name that is valid on every file system."""
    text = _UNSAFE.sub("_", visible(name))
    return text.encode()[:_MAX_BYTES].decode(errors="ignore")


def _key(name: str) -> str:
    """Return a key that is equal for names that a file system may not distinguish."""
    return unicodedata.normalize("NFC", name).casefold()
