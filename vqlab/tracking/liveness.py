"""Whether the process that owns a run still lives; what cannot be known counts as alive.

Two kinds of evidence, neither of which a clock that is set, an equal host name or a process number
in another container can change. A process of this boot and PID namespace is looked up: its number
and its start, in ticks since the boot. Any other is known by its lock: a file in the store's folder
that the operating system releases when the process ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import filelock
import psutil

FOLDER = "alive"
"""Folder of a store with the locks of the processes that own its runs."""
_HOST, _PID, _PLACE, _START, _LOCK = (
    "vqlab.host", "vqlab.pid", "vqlab.process_place", "vqlab.process_start", "vqlab.process_lock",
)  # fmt: skip
_UNKNOWN = "unknown"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_held: dict[tuple[int, Path], filelock.FileLock] = {}
"""Locks by process number (a fork has its own) and store."""


def owner_tags(root: Path | None = None) -> dict[str, str]:
    """Return which process this is, so that others can tell whether it still lives.

    root: the store's folder on this machine, in which the process then holds a lock.
    """
    tags = {_HOST: socket.gethostname(), _PID: str(os.getpid())}
    place, start = _place(), _start(os.getpid())
    if place and start:
        tags |= {_PLACE: place, _START: start}
    if root is not None and (lock := _own_lock(root)):
        tags[_LOCK] = lock
    return tags


def owner_is_gone(tags: Mapping[str, str], root: Path | None = None) -> bool:
    """Return whether the owner named by `owner_tags` surely ended.

    False where nothing can be known: another machine, another container without a lock in `root`,
    a run that names no owner.
    """
    place, same_host = _place(), tags.get(_HOST) == socket.gethostname()
    if same_host and place and place == tags.get(_PLACE) and tags.get(_PID, "").isdigit():
        return _start(int(tags[_PID])) not in (tags.get(_START), _UNKNOWN)
    same_boot = bool(place) and place.split()[0] == tags.get(_PLACE, "").partition(" ")[0]
    return root is not None and (same_boot or same_host) and _is_free(root, tags.get(_LOCK, ""))


def delete_locks(root: Path, running: Iterable[Mapping[str, str]]) -> None:
    """Delete the lock files that nobody holds, except those of owners of `running` runs."""
    needed = {tags.get(_LOCK) for tags in running}
    for path in (root / FOLDER).glob("*.lock"):
        if path.stem not in needed and _is_free(root, path.stem):
            with contextlib.suppress(OSError):
                path.unlink()


def _place() -> str:
    """Return within what this process's number means something; empty where that is unknown.

    On Linux the boot and the PID namespace, if /proc is this namespace's own; elsewhere the host.
    """
    if not psutil.LINUX:
        return socket.gethostname()
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return f"{_BOOT.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start(pid: int) -> str:
    """Return when a process started, on a clock that is never set; empty where it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        if not psutil.LINUX:
            return repr(process.create_time())
        # psutil's own time moves with the clock. Field 22: ticks since the boot (man 5 proc).
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except psutil.AccessDenied:
        return _UNKNOWN
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return ""


def _own_lock(root: Path) -> str:
    """Return the name of the lock that this process holds until it ends; empty where it has none,
    as on a file system without locks."""
    key = (os.getpid(), root)
    if key not in _held:
        lock = filelock.FileLock(_lock_file(root, uuid.uuid4().hex), timeout=0)
        try:
            Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, NotImplementedError):
            return ""
        _held[key] = lock
    return Path(_held[key].lock_file).stem


def _is_free(root: Path, name: str) -> bool:
    """Return whether a lock exists and nobody holds it."""
    path = _lock_file(root, name)
    if not name or not path.is_file():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return True
    except (OSError, RuntimeError):  # held (filelock.Timeout is an OSError), or unknown
        return False


def _lock_file(root: Path, name: str) -> Path:
    return root / FOLDER / f"{name}.lock"
