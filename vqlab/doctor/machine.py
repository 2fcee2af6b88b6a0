"""Check Python, its packages, and the resources available to this process."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from pathlib import Path

from vqlab.doctor.finding import Finding, gibibytes
from vqlab.version import __version__

_MIN_PYTHON = (3, 10)
_MIN_DISK, _LOW_DISK = 2**28, 4 * 2**30
_MIN_MEMORY, _LOW_MEMORY = 2**29, 2 * 2**30


def python() -> Finding:
    """Return the interpreter and its version."""
    value = f"{sys.version.split()[0]} ({sys.executable}), vqlab {__version__}"
    if sys.version_info < _MIN_PYTHON:
        advice = "vqlab requires Python 3.10 or newer; recreate the environment with make PYTHON=…."
        return Finding("Python", value, "error", advice)
    return Finding("Python", value)


def packages() -> Finding:
    """Check that the required packages are installed in compatible versions."""
    try:
        required = importlib.metadata.requires("vqlab") or []
    except importlib.metadata.PackageNotFoundError:
        advice = "vqlab runs from its folder and is not installed; install it with `make setup`."
        return Finding("packages", "not installed", "warning", advice)
    requirements = [line for line in required if ";" not in line]  # without extras
    wrong = [text for line in requirements if (text := _unsatisfied(line))]
    value = f"{len(requirements)} required"
    if wrong:
        advice = f"missing or incompatible: {', '.join(wrong)}; install them with `make setup`."
        return Finding("packages", value, "error", advice)
    return Finding("packages", f"{value}, all installed")


def _unsatisfied(requirement: str) -> str:
    """Return the requirement if it is not satisfied, else an empty string."""
    name = re.split(r"[^\w.\-]", requirement, maxsplit=1)[0]
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return requirement
    try:
        from packaging.requirements import Requirement
    except ImportError:  # versions cannot be compared
        return ""
    satisfied = Requirement(requirement).specifier.contains(installed, prereleases=True)
    return "" if satisfied else f"{requirement} (installed: {installed})"


def cores() -> Finding:
    """Return the number of cores available by affinity and control group, and the load."""
    affinity = getattr(os, "sched_getaffinity", None)
    usable = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota = _quota()
    value = f"{usable:.0f} of {os.cpu_count()} usable"
    if quota is not None and quota < usable:
        usable, value = quota, f"{value}, limited to {quota:.3g} by the control group"
    load = os.getloadavg()[0]
    value += f"; load {load:.1f}"
    if load > usable + 1:
        advice = "other processes use them; expect longer times, or lower OMP_NUM_THREADS."
        return Finding("cores", value, "warning", advice)
    return Finding("cores", value)


def memory() -> Finding:
    """Return the free memory within the limit of the control group."""
    try:
        import psutil
    except ImportError:
        return Finding("memory", "unknown", "warning", "psutil is not installed, see packages.")
    state = psutil.virtual_memory()
    free, total = state.available, state.total
    limit, used = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if limit is not None and limit < total:
        total, free = int(limit), min(free, int(limit - (used or 0)))
    value = f"{gibibytes(free)} of {gibibytes(total)} free"
    if free < _MIN_MEMORY:
        return Finding("memory", value, "error", "too little for training; stop other processes.")
    if free < _LOW_MEMORY:
        advice = "low; reduce training.batch_size and data.memory_mib, or stop other processes."
        return Finding("memory", value, "warning", advice)
    return Finding("memory", value)


def disk(mlruns: Path) -> Finding:
    """Return the free disk space where runs are written."""
    free = shutil.disk_usage(existing(mlruns)).free
    value = f"{gibibytes(free)} free for {mlruns}"
    if free < _MIN_DISK:
        advice = "too little to record a run; free some space, or use another disk with --mlruns."
        return Finding("disk", value, "error", advice)
    if free < _LOW_DISK:
        advice = "low; runs and cached features may fill it; run vqlab data cache --clear."
        return Finding("disk", value, "warning", advice)
    return Finding("disk", value)


def threads() -> Finding:
    """Return the OpenMP settings."""
    count = os.environ.get("OMP_NUM_THREADS", "").strip()
    policy = os.environ.get("OMP_WAIT_POLICY", "").strip()
    value = (
        f"OMP_NUM_THREADS {count or 'not set (all cores)'}, OMP_WAIT_POLICY {policy or 'not set'}"
    )
    if count and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", count):
        advice = f"OMP_NUM_THREADS must be a number of at least 1; got {count}; correct it."
        return Finding("threads", value, "warning", advice)
    if count and int(count.partition(",")[0]) > (os.cpu_count() or 1):
        advice = "OMP_NUM_THREADS exceeds the number of cores, which is slow; lower it."
        return Finding("threads", value, "warning", advice)
    if policy.lower() == "active":
        advice = "waiting threads use CPU time; set OMP_WAIT_POLICY=passive on a shared machine."
        return Finding("threads", value, "warning", advice)
    return Finding("threads", value)


def existing(path: Path) -> Path:
    """Return the path, or its nearest existing parent."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


_CGROUP = Path("/sys/fs/cgroup")


def _quota() -> float | None:
    """Return the core limit of the control group (v2), None if there is none."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # `max`: no limit
        return None
