"""Check whether the process that owns a run is alive; an unknown state counts as alive.

A process of the same boot and PID namespace is looked up by PID and start time in ticks since boot.
Other processes are identified by a lock file in the store's folder, which the operating system
releases when the process ends. Neither depends on clocks, host names or PIDs of containers.
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
"""Folder of the lock files of processes that own runs."""
_HOST, _PID, _PLACE, _START, _LOCK = (
    "vqlab.host", "vqlab.pid", "vqlab.process_place", "vqlab.process_start", "vqlab.process_lock",
)  # fmt: skip
_UNKNOWN = "unknown"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_held: dict[tuple[int, Path], filelock.FileLock] = {}
"""Locks held, by PID (a fork needs its own) and store."""


def owner_tags(root: Path | None = None) -> dict[str, str]:
    """Return tags that identify this process.

    root: local folder of the store, in which the process holds a lock from then on.
    """
    tags = {_HOST: socket.gethostname(), _PID: str(os.getpid())}
    place, start = _place(), _start(os.getpid())
    if place and start:
        tags |= {_PLACE: place, _START: start}
    if root is not None and (lock := _acquire_lock(root)):
        tags[_LOCK] = lock
    return tags


def owner_is_gone(tags: Mapping[str, str], root: Path | None = None) -> bool:
    """Return whether the process of `owner_tags` has ended.

    False if unknown: another machine, another container without a lock in `root`, or no owner.
    """
    place, same_host = _place(), tags.get(_HOST) == socket.gethostname()
    if same_host and place and place == tags.get(_PLACE) and tags.get(_PID, "").isdigit():
        return _start(int(tags[_PID])) not in (tags.get(_START), _UNKNOWN)
    same_boot = bool(place) and place.split()[0] == tags.get(_PLACE, "").partition(" ")[0]
    return root is not None and (same_boot or same_host) and _is_free(root, tags.get(_LOCK, ""))


def delete_locks(root: Path, running: Iterable[Mapping[str, str]]) -> None:
    """Delete lock files not held, except those of owners of `running` runs."""
    needed = {tags.get(_LOCK) for tags in running}
    for path in (root / FOLDER).glob("*.lock"):
        if path.stem not in needed and _is_free(root, path.stem):
            with contextlib.suppress(OSError):
                path.unlink()


def _place() -> str:
    """Return the scope of this process's PID; empty if unknown.

    On Linux boot ID and PID namespace, if /proc belongs to the namespace; elsewhere the host name.
    """
    if not psutil.LINUX:
        return socket.gethostname()
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return f"{_BOOT.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _start(pid: int) -> str:
    """Return the start time of a process on a monotonic clock; empty if it has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        if not psutil.LINUX:
            return repr(process.create_time())
        # create_time depends on the system clock. Field 22: ticks since boot (man 5 proc).
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except psutil.AccessDenied:
        return _UNKNOWN
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return ""


def _acquire_lock(root: Path) -> str:
    """Return the name of the lock held by this process; empty on a file system without locks."""
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
    """Return whether a lock file exists and is not held."""
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
