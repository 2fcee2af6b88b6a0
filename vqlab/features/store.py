"""Files of features: half-precision records after a header, written once, then memory-mapped.

A file is written under another name and a lock, and renamed when complete: of several processes
that need it, one writes and the others wait.
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
"""Version of the file format; files of other versions are written again."""
HEADER = 4096
"""Bytes before the first record: JSON, padded with spaces."""
SECONDS = "seconds"
"""Key of the header: time that the extraction took."""
SUFFIX = ".features"
VARIABLE = "VQLAB_CACHE"
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Halves = NDArray[np.float16]
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of cached features: VQLAB_CACHE, else ~/.cache/vqlab/features, or a
    temporary folder if that is not writable."""
    variable = os.environ.get(VARIABLE)
    if variable:
        return Path(variable).expanduser()
    default = _default_folder()
    if default is not None:
        with suppress(OSError):
            default.mkdir(parents=True, exist_ok=True)
            if os.access(default, os.W_OK | os.X_OK):
                return default
    return _temporary_folder(default)


def _default_folder() -> Path | None:
    with suppress(RuntimeError):  # this user has no home folder
        return Path("~/.cache/vqlab/features").expanduser()
    return None


@cache
def _temporary_folder(default: Path | None) -> Path:
    """Return a temporary folder of this user; logs a warning once."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"vqlab-{user}" / "features"
    log.warning(
        "features are cached in %s because %s is not writable; set %s to a permanent folder.",
        folder,
        default or "~/.cache",
        VARIABLE,
    )
    return folder


def _candidates(file: str) -> Iterator[Path]:
    """Yield the paths of a file: in the default folder, which may be read-only, and where it would
    be written."""
    default = _default_folder()
    if default is not None and not os.environ.get(VARIABLE):
        yield default / file
    yield cache_folder() / file


@dataclass(frozen=True)
class CachedRecords:
    """The content of a file of features."""

    path: Path
    records: Halves
    """(count, length) float16, memory-mapped, read-only."""
    hit: bool
    """Whether they were on disk already."""
    seconds: float
    """Time that the extraction took."""


def cached_records(
    name: str,
    about: Mapping[str, Any],
    count: int,
    length: int,
    make: Callable[[], Iterator[Halves]],
) -> CachedRecords:
    """Return the `count` records of the file `name`, each of `length` numbers.

    If the file is missing, truncated, of another format or has other values in `about` (JSON), it
    is written from the arrays (n, length) that `make` yields; a warning is logged unless it is
    missing. Raises UserError if the folder is not writable or the disk is full.
    """
    header = {"kind": KIND, "format": FORMAT, "count": count, "length": length, **about}
    for path in _candidates(f"{name}{SUFFIX}"):
        if not _fault(path, header):
            return _open(path, header, hit=True)
    with _explain_errors(path, _size(header)), _lock(path):
        fault = _fault(path, header)  # another process may have written it meanwhile
        if fault:
            if path.exists():
                log.warning("features cached in %s %s; they are extracted again", path, fault)
            _write(path, header, make)
    return _open(path, header, hit=not fault)


def _fault(path: Path, header: Mapping[str, Any]) -> str:
    """Say why a file does not match the header; empty if it does."""
    stored = read_header(path)
    if stored is None:
        return "are truncated or not a file of vqlab"
    if stored.get("format") != FORMAT:
        return f"have format {stored.get('format')}, and this vqlab's is {FORMAT}"
    if {key: value for key, value in stored.items() if key != SECONDS} != header:
        return "belong to other settings or images"
    return "" if path.stat().st_size == _size(header) else "are truncated"


def _size(header: Mapping[str, Any]) -> int:
    return HEADER + int(header["count"]) * int(header["length"]) * 2


def read_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a file of features; None if it is missing, truncated or not vqlab's."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER))
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and header.get("kind") == KIND else None


def _open(path: Path, header: Mapping[str, Any], hit: bool) -> CachedRecords:
    with suppress(OSError):  # in a read-only folder the time of last use is not updated
        os.utime(path)
    shape = (int(header["count"]), int(header["length"]))
    seconds = float((read_header(path) or {}).get(SECONDS, 0.0))
    return CachedRecords(path, np.memmap(path, "<f2", "r", HEADER, shape), hit, seconds)


def _write(path: Path, header: Mapping[str, Any], make: Callable[[], Iterator[Halves]]) -> None:
    part = path.with_suffix(".part")  # overwrites that of a killed process: this one has the lock
    start = time.monotonic()
    if shutil.disk_usage(path.parent).free < _size(header):
        raise OSError(errno.ENOSPC, "not enough space", str(part))
    try:
        with part.open("wb") as file:
            file.seek(HEADER)
            for records in make():
                file.write(np.ascontiguousarray(records, "<f2").data)
            file.seek(0)
            complete = {**header, SECONDS: round(time.monotonic() - start, 3)}
            file.write(json.dumps(complete).encode().ljust(HEADER))
            file.flush()
            os.fsync(file.fileno())
        if part.stat().st_size != _size(header):
            raise ValueError(f"make must yield {header['count']} records of {header['length']}.")
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _lock(path: Path, timeout: float = -1) -> filelock.BaseFileLock:
    folder = path.parent / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(folder / f"{path.stem}.lock", timeout=timeout)


@contextmanager
def _explain_errors(path: Path, size: int) -> Iterator[None]:
    """Turn errors of the cache folder into a UserError; others pass unchanged."""
    try:
        yield
    except OSError as error:
        full = error.errno in _DISK_FULL
        in_cache = error.filename and Path(error.filename).is_relative_to(path.parent)
        if not (full or in_cache):
            raise
        reason = "the disk is full" if full else error.strerror or error
        raise UserError(
            f"features ({size / 1e6:.0f} MB) cannot be cached in {path.parent}: {reason}; set "
            f"{VARIABLE} to another folder, clear this one with `vqlab data cache --clear`, or set "
            "features.cache=false."
        ) from None


@dataclass(frozen=True)
class CacheFile:
    """A file in the cache."""

    path: Path
    backbone: str
    """Empty for an incomplete file."""
    category: str
    images: int
    size: int
    """Bytes."""
    used: float
    """Time of the last access, seconds since 1970."""


def cache_files() -> list[CacheFile]:
    """Return all files in the cache, including incomplete ones, last used first."""
    files = []
    for path in cache_folder().glob("*"):
        if path.suffix not in (SUFFIX, ".part"):
            continue
        with suppress(FileNotFoundError):  # deleted meanwhile
            state = path.stat()
            header = read_header(path) or {}
            if path.suffix == ".part" or (header and state.st_size != _size(header)):
                header = {}
            backbone, category = (str(header.get(key, "")) for key in ("backbone", "category"))
            count = int(header.get("count", 0))
            files.append(CacheFile(path, backbone, category, count, state.st_size, state.st_mtime))
    return sorted(files, key=lambda file: -file.used)


def clear_cache(older_than: float = 0.0) -> list[CacheFile]:
    """Delete the files not used for `older_than` days and return them.

    A file that a process is writing stays.
    """
    deleted = []
    for file in cache_files():
        if time.time() - file.used < older_than * 86400:
            continue
        with suppress(filelock.Timeout, FileNotFoundError), _lock(file.path, timeout=0):
            file.path.unlink()
            deleted.append(file)
    return deleted
