"""Python, its packages, and what of the machine this process may use."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path

from vqlab.doctor.finding import Finding, amount
from vqlab.version import __version__

_OLDEST = (3, 10)
_DISK, _LITTLE_DISK = 2**28, 4 * 2**30
_MEMORY, _LITTLE_MEMORY = 2**29, 2 * 2**30


def python() -> Finding:
    """Return the interpreter and its version."""
    value = f"{sys.version.split()[0]} ({sys.executable}), vqlab {__version__}"
    if sys.version_info < _OLDEST:
        advice = "vqlab needs Python 3.10 or newer; make the environment again with PYTHON=python3."
        return Finding("Python", value, "error", advice)
    return Finding("Python", value)


def packages() -> Finding:
    """Return whether the packages that vqlab requires are installed, in fitting versions."""
    try:
        required = importlib.metadata.requires("vqlab") or []
    except importlib.metadata.PackageNotFoundError:
        advice = "vqlab runs from its folder and is not installed; make setup does that."
        return Finding("packages", "not installed", "warning", advice)
    wrong = [fault for line in required if ";" not in line for fault in _fault(line)]
    value = f"{len([line for line in required if ';' not in line])} required"
    if wrong:
        advice = f"missing or of another version: {', '.join(wrong)}; install them: make setup."
        return Finding("packages", value, "error", advice)
    return Finding("packages", f"{value}, all there")


def _fault(requirement: str) -> list[str]:
    name = re.split(r"[^\w.\-]", requirement, maxsplit=1)[0]
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return [requirement]
    try:
        from packaging.requirements import Requirement
    except ImportError:  # then only what is missing can be said
        return []
    fits = Requirement(requirement).specifier.contains(installed, prereleases=True)
    return [] if fits else [f"{requirement} (is {installed})"]


def cores() -> Finding:
    """Return how many cores this process may use: by its affinity, and by its control group."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota = _quota()
    value = f"{usable:.0f} of {os.cpu_count()} usable"
    if quota is not None and quota < usable:
        usable, value = quota, f"{value}, limited to {quota:.3g} by the control group"
    load = os.getloadavg()[0]
    value += f"; load {load:.1f}"
    if load > usable + 1:
        advice = "other programs keep them busy, so all takes longer; set OMP_NUM_THREADS lower."
        return Finding("cores", value, "warning", advice)
    return Finding("cores", value)


def memory() -> Finding:
    """Return the memory that is free, within the limit of the control group."""
    try:
        import psutil
    except ImportError:
        return Finding("memory", "unknown", "warning", "psutil is missing, see packages.")
    state = psutil.virtual_memory()
    free, total = state.available, state.total
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and limit < total:
        total, free = int(limit), min(free, int(limit - (used or 0)))
    value = f"{amount(free)} of {amount(total)} free"
    if free < _MEMORY:
        return Finding("memory", value, "error", "too little to train; end other programs.")
    if free < _LITTLE_MEMORY:
        advice = "little; lower training.batch_size and data.memory_mib, or end other programs."
        return Finding("memory", value, "warning", advice)
    return Finding("memory", value)


def disk(mlruns: Path) -> Finding:
    """Return the room where runs are written."""
    place = existing(mlruns)
    free = shutil.disk_usage(place).free
    value = f"{amount(free)} free for {mlruns}"
    if free < _DISK:
        advice = "too little to record a run; free some space, or name another disk by --mlruns."
        return Finding("disk", value, "error", advice)
    if free < _LITTLE_DISK:
        advice = "little; runs, and features kept on disk, may fill it (vqlab data cache --clear)."
        return Finding("disk", value, "warning", advice)
    return Finding("disk", value)


def threads() -> Finding:
    """Return the settings of OpenMP."""
    count = os.environ.get("OMP_NUM_THREADS", "").strip()
    policy = os.environ.get("OMP_WAIT_POLICY", "").strip()
    value = (
        f"OMP_NUM_THREADS {count or 'not set (all cores)'}, OMP_WAIT_POLICY {policy or 'not set'}"
    )
    if count and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", count):
        advice = f"OMP_NUM_THREADS must be a number of 1 or more; got {count}; OpenMP ignores it."
        return Finding("threads", value, "warning", advice)
    if count and int(count.partition(",")[0]) > (os.cpu_count() or 1):
        advice = "OMP_NUM_THREADS is more than there are cores, which slows all down; lower it."
        return Finding("threads", value, "warning", advice)
    if policy.lower() == "active":
        advice = "waiting threads burn CPU time; set OMP_WAIT_POLICY=passive where others run too."
        return Finding("threads", value, "warning", advice)
    return Finding("threads", value)


def existing(place: Path) -> Path:
    """Return the place, or the nearest folder above it that exists."""
    place = place.expanduser().absolute()
    return next(folder for folder in (place, *place.parents) if folder.exists())


_CGROUP = Path("/sys/fs/cgroup")


def _quota() -> float | None:
    """Return the cores that the control group (v2) allows; None without a limit."""
    try:
        allowed, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return int(allowed) / int(period)
    except (OSError, ValueError):
        return None


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # `max`: no limit
        return None
