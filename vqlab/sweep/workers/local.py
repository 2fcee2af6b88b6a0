"""Workers as processes on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from vqlab.openmp import requested_threads

_RESTARTS = 5
"""Maximum number of restarts of killed workers."""
_GRACE = 10.0
"""Seconds that a worker has to stop before it is killed."""


class LocalWorkers:
    """Processes on this machine, which share its cores (or have OMP_NUM_THREADS threads each) and
    its GPUs.

    root: folder of the tracking store; workers write their output to `sweeps/` in it. They stop
    when the process that started them ends.
    """

    def __init__(self, count: int, root: Path, timeout: float | None = None) -> None:
        self.count, self.root, self.timeout = count, root, timeout
        self._study = ""
        self._workers: list[subprocess.Popen[bytes] | None] = []
        self._restarts = [0] * count
        self._error = ""

    def start(self, study: str) -> None:
        self._study = study
        (self.root / "sweeps").mkdir(parents=True, exist_ok=True)
        self._workers = [self._spawn(slot) for slot in range(self.count)]

    def poll(self) -> int:
        for slot, worker in enumerate(self._workers):
            code = worker.poll() if worker is not None else None
            if code is None:
                continue
            self._workers[slot] = None
            if code > 0:
                self._error = self._last_error(slot)
            elif code < 0 and self._restarts[slot] == _RESTARTS:
                self._error = (
                    f"workers were killed {_RESTARTS + 1} times by signal {-code}; is there enough "
                    "memory? Use fewer workers and re-run the command."
                )
            elif code < 0:
                self._restarts[slot] += 1
                self._workers[slot] = self._spawn(slot)
        return sum(worker is not None for worker in self._workers)

    def stop(self) -> None:
        alive = [worker for worker in self._workers if worker is not None]
        for worker in alive:
            with contextlib.suppress(ProcessLookupError):
                worker.terminate()
        deadline = time.monotonic() + _GRACE
        for worker in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(max(0.1, deadline - time.monotonic()))
            if worker.poll() is None:
                worker.kill()
                worker.wait()
            if worker.stdin is not None:
                worker.stdin.close()
        self._workers = []

    def error(self) -> str:
        return self._error

    def _last_error(self, slot: int) -> str:
        lines = self._log(slot).read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line for line in lines if line.strip()]
        return lines[-1].removeprefix("vqlab: ") if lines else f"see {self._log(slot)}"

    def _log(self, slot: int) -> Path:
        return self.root / "sweeps" / f"{self._study}-worker{slot}.log"

    def _spawn(self, slot: int) -> subprocess.Popen[bytes]:
        threads = requested_threads() or max(1, (os.cpu_count() or 1) // self.count)
        command = [sys.executable, "-m", "vqlab", "worker", self._study, "--follow"]
        command += ["--mlruns", str(self.root), "--threads", str(threads)]
        if self.timeout is not None:
            command += ["--timeout", str(self.timeout)]
        around = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if torch.cuda.device_count() > 1:
            around["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
        with self._log(slot).open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closed when this process ends, which stops the worker
                stdout=log,
                stderr=log,
                env=around,
                start_new_session=True,  # Ctrl-C reaches only this process, which stops the workers
            )
