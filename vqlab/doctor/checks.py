"""All checks, the slow ones side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from vqlab.doctor.finding import Finding
from vqlab.doctor.gpu import gpu, gpu_of_torch
from vqlab.doctor.machine import cores, disk, memory, packages, python, threads
from vqlab.doctor.network import hub, ports
from vqlab.doctor.places import cache, data_sets, study_store, tracking_store, weights

Check = Callable[[], list[Finding]]
_PATIENCE = 1.5
"""Seconds that the slow checks may take, all together."""


def examine(mlruns: Path, data: Path | None = None, full: bool = False) -> list[Finding]:
    """Return what every check says. data: a data set folder besides the usual places. full: ask
    PyTorch itself for the GPU, which takes seconds."""
    patience = None if full else _PATIENCE
    asked_gpu = _begin("GPU", gpu_of_torch if full else gpu)
    asked_hub = _begin("hub", hub)
    asked_runs = _begin("runs", lambda: tracking_store(mlruns))
    findings = [
        *_safely("Python", lambda: [python()]),
        *_safely("packages", lambda: [packages()]),
        *_safely("cores", lambda: [cores()]),
        *_safely("memory", lambda: [memory()]),
        *_safely("disk", lambda: [disk(mlruns)]),
        *_safely("threads", lambda: [threads()]),
        *(asked_gpu(patience) or [Finding("GPU", "no answer in time", "warning", _NO_GPU)]),
    ]
    online = asked_hub(patience) or [Finding("hub", "no answer in time", "warning", _NO_HUB)]
    return [
        *findings,
        *online,
        *_safely("weights", lambda: [weights(online=online[0].state == "ok")]),
        *_safely("data", lambda: [data_sets(data)]),
        *(asked_runs(patience) or [Finding("runs", "no answer in time", "error", _NO_STORE)]),
        *_safely("studies", lambda: [study_store(mlruns)]),
        *_safely("cache", lambda: [cache()]),
        *_safely("ports", ports),
    ]


def _safely(name: str, check: Check) -> list[Finding]:
    """Return what a check says, or that it failed, e.g. at a folder that may not be read."""
    try:
        return check()
    except OSError as error:
        return [Finding(name, "unknown", "warning", f"the check itself failed: {error}.")]


_NO_GPU = "the driver may hang: run nvidia-smi yourself; `vqlab doctor --full` asks PyTorch."
_NO_HUB = "its name is not resolved in time; weights are not downloaded, see weights."
_NO_STORE = "the server of MLFLOW_TRACKING_URI does not answer in time; check that it runs."


def _begin(name: str, check: Check) -> Callable[[float | None], list[Finding]]:
    """Start a check in a thread that does not outlive the process; what is returned waits for it,
    and returns nothing where it takes longer."""
    found: list[Finding] = []
    thread = threading.Thread(target=lambda: found.extend(_safely(name, check)), daemon=True)
    thread.start()

    def wait(seconds: float | None) -> list[Finding]:
        thread.join(seconds)
        return list(found)

    return wait
