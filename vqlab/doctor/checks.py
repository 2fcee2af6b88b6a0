"""Run all checks, the slow ones in parallel."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from vqlab.doctor.finding import Finding
from vqlab.doctor.folders import cache, datasets, study_store, tracking_store, weights
from vqlab.doctor.gpu import gpu, torch_gpu
from vqlab.doctor.machine import cores, disk, memory, packages, python, threads
from vqlab.doctor.network import hub, ports

Check = Callable[[], list[Finding]]
_TIMEOUT = 1.5
"""Seconds to wait for each slow check."""


def run_checks(mlruns: Path, data: Path | None = None, full: bool = False) -> list[Finding]:
    """Return the findings of every check.

    data: a dataset folder to check besides the default ones. full: query the GPU by PyTorch, which
    takes seconds.
    """
    timeout = None if full else _TIMEOUT
    wait_for_gpu = _start("GPU", torch_gpu if full else gpu)
    wait_for_hub = _start("hub", hub)
    wait_for_runs = _start("runs", lambda: tracking_store(mlruns))
    findings = [
        *_safely("Python", lambda: [python()]),
        *_safely("packages", lambda: [packages()]),
        *_safely("cores", lambda: [cores()]),
        *_safely("memory", lambda: [memory()]),
        *_safely("disk", lambda: [disk(mlruns)]),
        *_safely("threads", lambda: [threads()]),
        *(wait_for_gpu(timeout) or [Finding("GPU", "timeout", "warning", _NO_GPU)]),
    ]
    hub_findings = wait_for_hub(timeout) or [Finding("hub", "timeout", "warning", _NO_HUB)]
    return [
        *findings,
        *hub_findings,
        *_safely("weights", lambda: [weights(online=hub_findings[0].state == "ok")]),
        *_safely("data", lambda: [datasets(data)]),
        *(wait_for_runs(timeout) or [Finding("runs", "timeout", "error", _NO_STORE)]),
        *_safely("studies", lambda: [study_store(mlruns)]),
        *_safely("cache", lambda: [cache()]),
        *_safely("ports", ports),
    ]


def _safely(name: str, check: Check) -> list[Finding]:
    """Return the findings of a check, or that it failed, e.g. at an unreadable folder."""
    try:
        return check()
    except OSError as error:
        return [Finding(name, "unknown", "warning", f"the check failed: {error}.")]


_NO_GPU = "the driver may hang; run nvidia-smi, or `vqlab doctor --full` to query PyTorch."
_NO_HUB = "its name was not resolved in time; weights cannot be downloaded, see weights."
_NO_STORE = "the server of MLFLOW_TRACKING_URI did not answer in time; check that it is running."


def _start(name: str, check: Check) -> Callable[[float | None], list[Finding]]:
    """Start a check in a daemon thread; return a function that waits for it, at most the given
    seconds, and returns its findings (empty after a timeout)."""
    findings: list[Finding] = []
    thread = threading.Thread(target=lambda: findings.extend(_safely(name, check)), daemon=True)
    thread.start()

    def wait(seconds: float | None) -> list[Finding]:
        thread.join(seconds)
        return list(findings)

    return wait
