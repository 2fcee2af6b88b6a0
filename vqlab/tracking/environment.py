"""Defaults of MLflow's environment variables, and the environment logged with a run.

Must be imported before mlflow, which reads them on import. Variables set by the user win.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

MLFLOW_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}

for _name, _value in MLFLOW_DEFAULTS.items():
    os.environ.setdefault(_name, _value)
logging.getLogger("alembic").setLevel(logging.WARNING)

_PACKAGE = Path(__file__).resolve().parents[1]


def environment_info() -> dict[str, Any]:
    """Return versions, machine, devices and CPU threads of this process, as plain JSON values."""
    import torch  # slow, and not needed to read runs

    return {**_machine(), "threads": torch.get_num_threads()}


@cache
def _machine() -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "vqlab": _version("vqlab"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "mlflow": _version("mlflow"),
        "optuna": _version("optuna"),
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "cuda": torch.version.cuda if cuda else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
    }


def user_name() -> str:
    """Return the name of the user that runs this process, or `unknown`."""
    with contextlib.suppress(Exception):
        return getpass.getuser()
    return "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def code_tags() -> dict[str, str]:
    """Return `git_tags` of the running code, as of the first call."""
    return git_tags(_PACKAGE)


def git_tags(package: Path) -> dict[str, str]:
    """Return tags `mlflow.source.git.commit` and `vqlab.git_dirty`; empty without a commit.

    Dirty: a file of the package differs from the commit. A package that is not tracked by the
    surrounding repository (an installed one) has no commit.
    """
    if not _git(package, "ls-files", "--", "."):
        return {}
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    changes = _git(package, "status", "--porcelain", "--", ".")
    if not commit or changes is None:
        return {}
    return {"mlflow.source.git.commit": commit, "vqlab.git_dirty": str(bool(changes)).lower()}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of git, or None if git is missing or fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
