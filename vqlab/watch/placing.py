"""Move or copy the file of a judged part to the folder of its verdict."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Literal

from vqlab.errors import UserError
from vqlab.predict.folder import identity_of
from vqlab.predict.rows import file_path, file_text
from vqlab.text import visible
from vqlab.watch.store import Part, Store

Sort = Literal["none", "copy", "move"]
"""How the files of judged parts are sorted."""


def choose_target(store: Store, folder: Path, output: Path, path: Path, verdict: str) -> str:
    """Return a path in `output` that no other part has: `reject/sub/001.png` of `sub/001.png`; if
    that is taken, with the number of the part: `reject/sub/001_57.png`."""
    target = output / verdict / path.relative_to(folder)
    if store.has_target(file_text(target)):
        target = target.with_name(f"{target.stem}_{store.next_part()}{target.suffix}")
    return file_text(target)


def place(part: Part, mode: str) -> None:
    """Move or copy the file of a part to its target, unless that was done before.

    A file that changed after it was judged is left: it is a new part. Raises UserError if the file
    cannot be moved or copied; nothing is lost then.
    """
    assert part.target is not None
    source, target = file_path(part.file), file_path(part.target)
    if identity_of(source) != part.identity:
        return
    try:
        if identity_of(target) == part.identity:  # copied before the process was killed
            if mode == "move":
                source.unlink()
            return
        if os.path.lexists(target):
            raise UserError(
                f"{visible(target)} must not exist; move it away and start vqlab watch again."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == "copy" or not _renamed(source, target):
            _copy(source, target)
        if mode == "move":
            source.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{visible(source)} was judged but cannot be placed at {visible(target)} "
            f"({error.strerror}); fix the cause and start vqlab watch again, which continues here."
        ) from None


def _renamed(source: Path, target: Path) -> bool:
    """Rename a file; return whether that is possible (on one file system)."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its modification time, atomically."""
    temporary = target.with_name(f".{target.name}.part")
    try:
        shutil.copy2(source, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
