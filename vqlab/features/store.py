"""Files of features: half-precision records behind a header, written once, read through the map.

A file is written beside its place under a lock and renamed when whole: a file of that name is never
half written, and of several processes that want it one works while the others wait.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from vqlab.errors import UserError

KIND = "vqlab features"
FORMAT = 1
"""Written into every file; a file of another format is made again."""
HEADER = 4096
"""Bytes before the first record: JSON, filled up with spaces."""
SECONDS = "seconds"
"""Key of the header: what making the records took."""
SUFFIX = ".features"
VARIABLE = "VQLAB_CACHE"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Halves = NDArray[np.float16]
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return where features are kept: the variable VQLAB_CACHE, else ~/.cache/vqlab/features, else
    (where that cannot be written) a folder for temporary files."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser()
    usual = _usual_folder()
    return usual if usual is not None and _writable(usual) else _temporary_folder(usual)


def _usual_folder() -> Path | None:
    with suppress(RuntimeError):  # this user has no home
        return Path("~/.cache/vqlab/features").expanduser()
    return None


def _writable(folder: Path) -> bool:
    """Return whether files can be written to a folder, which is made where it is not there."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK | os.X_OK)
    return False


@cache
def _temporary_folder(instead_of: Path | None) -> Path:
    """Return a folder of this user's own; says so once."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"vqlab-{user}" / "features"
    log.warning(
        "features are kept in %s, for %s cannot be written; set %s to a folder that stays.",
        folder,
        instead_of or "~/.cache",
        VARIABLE,
    )
    return folder


def _place(file: str) -> Path:
    """Return where a file of features is, or is to be: it may be in a home that is only read."""
    usual = _usual_folder()
    if usual is not None and not os.environ.get(VARIABLE) and (usual / file).is_file():
        return usual / file
    return cache_folder() / file


@dataclass(frozen=True)
class Kept:
    """What a file holds."""

    path: Path
    records: Halves
    """(count, length) float16, mapped, read-only."""
    found: bool
    """Whether they were there when they were asked for, or another process made them."""
    seconds: float
    """What making them took, by the clock."""


def kept_records(
    name: str,
    about: Mapping[str, Any],
    count: int,
    length: int,
    make: Callable[[], Iterator[Halves]],
) -> Kept:
    """The `count` records of the file `name`, each of `length` numbers.

    Made by `make`, some records (n, length) at a time, where there is no such file, or where it is
    cut short, of another format or not about the same (JSON values): then a warning is logged.
    Raises UserError where the folder cannot be written or the disk is full.
    """
    path = _place(f"{name}{SUFFIX}")
    header = {"kind": KIND, "format": FORMAT, "count": count, "length": length, **about}
    if not _fault(path, header):
        return _mapped(path, header, found=True)
    if path.is_file() and not os.access(path.parent, os.W_OK):  # in a home that is only read
        path = cache_folder() / path.name
        if not _fault(path, header):
            return _mapped(path, header, found=True)
    with _sentences(path, _size(header)), _lock(path):
        fault = _fault(path, header)  # another process may have made it meanwhile
        if fault:
            if path.exists():
                log.warning("features kept in %s %s; they are extracted again", path, fault)
            _write(path, header, make)
    return _mapped(path, header, found=not fault)


def _fault(path: Path, header: Mapping[str, Any]) -> str:
    """Why a file is not what its header should say; empty where it is."""
    found = read_header(path)
    if found is None:
        return "are cut short, or not of vqlab"
    if found.get("format") != FORMAT:
        return f"have format {found.get('format')}, and this vqlab's is {FORMAT}"
    if {key: value for key, value in found.items() if key != SECONDS} != header:
        return "are of something else"
    if path.stat().st_size != _size(header):
        return "are cut short"
    return ""


def _size(header: Mapping[str, Any]) -> int:
    return HEADER + int(header["count"]) * int(header["length"]) * 2


def read_header(path: Path) -> dict[str, Any] | None:
    """What a file of features says of itself; nothing where it is missing, cut or another's."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER))
    except (OSError, ValueError):
        return None
    ours = isinstance(header, dict) and header.get("kind") == KIND
    return header if ours else None


def _mapped(path: Path, header: Mapping[str, Any], found: bool) -> Kept:
    with suppress(OSError):  # a folder that is only read has no last use
        os.utime(path)
    shape = (int(header["count"]), int(header["length"]))
    seconds = float((read_header(path) or {}).get(SECONDS, 0.0))
    return Kept(path, np.memmap(path, "<f2", "r", HEADER, shape), found, seconds)


def _write(path: Path, header: Mapping[str, Any], make: Callable[[], Iterator[Halves]]) -> None:
    beside = _beside(path)  # what a killed writer left is overwritten: the lock is ours
    began = time.monotonic()
    if shutil.disk_usage(path.parent).free < _size(header):
        raise OSError(errno.ENOSPC, "too little room", str(beside))
    try:
        with beside.open("wb") as file:
            file.seek(HEADER)
            for records in make():
                file.write(np.ascontiguousarray(records, "<f2").data)
            file.seek(0)
            whole = {**header, SECONDS: round(time.monotonic() - began, 3)}
            file.write(json.dumps(whole).encode().ljust(HEADER))
            file.flush()
            os.fsync(file.fileno())
        if beside.stat().st_size != _size(header):
            raise ValueError(f"the records made must be {header['count']} of {header['length']}.")
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    return path.with_suffix(".part")


def _lock(path: Path, timeout: float = -1) -> filelock.BaseFileLock:
    folder = path.parent / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / f"{path.stem}.lock", timeout=timeout)


@contextmanager
def _sentences(path: Path, size: int) -> Iterator[None]:
    """What goes wrong with the folder in one sentence; other errors pass as they are."""
    remedy = (
        f"set {VARIABLE} to another folder, clear this one with `vqlab data cache --clear`, or set "
        "features.cache=false."
    )
    try:
        yield
    except OSError as error:
        full = error.errno in _DISK_FULL
        ours = error.filename and Path(error.filename).is_relative_to(path.parent)
        if not (full or ours):
            raise
        reason = "the disk is full" if full else error.strerror or error
        raise UserError(
            f"features ({size / 1e6:.0f} MB) cannot be kept in {path.parent}: {reason}; {remedy}"
        ) from None


@dataclass(frozen=True)
class KeptFile:
    """A file of features, or what is left of one."""

    path: Path
    backbone: str
    """Empty where the file is no whole one."""
    category: str
    images: int
    size: int
    """Bytes."""
    used: float
    """When it was last read or written, seconds since 1970."""


def kept_files() -> list[KeptFile]:
    """All files of features in the cache, also what killed writers left, last used first."""
    found = []
    for path in cache_folder().glob("*"):
        if path.suffix not in (SUFFIX, ".part"):
            continue
        with suppress(FileNotFoundError):  # cleared meanwhile
            state = path.stat()
            header = read_header(path) or {}
            if path.suffix == ".part" or (header and state.st_size != _size(header)):
                header = {}
            backbone, category = (str(header.get(key, "")) for key in ("backbone", "category"))
            count = int(header.get("count", 0))
            found.append(KeptFile(path, backbone, category, count, state.st_size, state.st_mtime))
    return sorted(found, key=lambda file: -file.used)


def clear_files(older_than: float = 0.0) -> list[KeptFile]:
    """Delete the files last used `older_than` days ago or earlier; returns them.

    A file that a process is writing stays.
    """
    gone = []
    for file in kept_files():
        if time.time() - file.used < older_than * 86400:
            continue
        with suppress(filelock.Timeout, FileNotFoundError), _lock(file.path, timeout=0):
            file.path.unlink()
            gone.append(file)
    return gone
