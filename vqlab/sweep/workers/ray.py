"""Workers as Ray tasks on the machines of a Ray cluster.

Ray only places the workers and restarts them if a machine is lost; they read their task from the
stores.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqlab.openmp import VARIABLES
from vqlab.types import UserError

_FORWARDED = (
    "VQLAB_STORAGE", "VQLAB_HEARTBEAT", "VQLAB_WEIGHTS", "VQLAB_DETECTORS", "MLFLOW_TRACKING_URI",
)  # fmt: skip
"""Environment variables that workers on other machines need."""
_RETRIES = 5
"""Maximum number of times that Ray restarts a lost worker."""


class RayWorkers:
    """`count` workers on a Ray cluster (`vqlab[ray]`), each with a number of CPUs and GPUs.

    address: address of the cluster, `auto` for a running local one; None: start one on this
    machine. root: folder of local files on each machine. data: folder of the images on those
    machines. join: function that a worker calls with the name of the study, the tracker and the
    data; default: `vqlab.sweep.join`.
    """

    def __init__(
        self,
        count: int,
        root: Path,
        *,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
        data: Path | None = None,
        join: Callable[..., Any] | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UserError(
                "workers on Ray require the package ray; install it with pip install 'vqlab[ray]'."
            ) from None
        self._ray: Any = ray
        self.count, self.root, self.data, self._join = count, root, data, join
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self._tasks: list[Any] = []
        self._error = ""
        self._started = False

    def start(self, study: str) -> None:
        """Start the workers. Raises UserError if the cluster cannot be reached, or if it has
        several machines and the studies are in a file on this one."""
        ray = self._ray
        if not ray.is_initialized():
            variables = {
                name: os.environ[name] for name in (*_FORWARDED, *VARIABLES) if name in os.environ
            }
            variables["OMP_NUM_THREADS"] = str(max(1, int(self.cpus)))
            try:
                ray.init(
                    address=self.address, log_to_driver=False, runtime_env={"env_vars": variables},
                    logging_level="ERROR",
                )  # fmt: skip
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"the Ray cluster {self.address} cannot be reached "
                    f"({str(error).splitlines()[0]}); start one with `ray start --head`."
                ) from None
            self._started = True
        machines = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
        if len(machines) > 1 and not os.environ.get("VQLAB_STORAGE", "").startswith("postgresql"):
            raise UserError(
                f"a sweep on {len(machines)} machines must keep its studies in PostgreSQL; set "
                "VQLAB_STORAGE=postgresql://… (docs/sweeps.md)."
            )
        task = ray.remote(_work).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_RETRIES, retry_exceptions=False
        )
        data = str(self.data) if self.data is not None else None
        threads = max(1, int(self.cpus))
        arguments = study, str(self.root), data, threads, self._join
        self._tasks = [task.remote(*arguments) for _ in range(self.count)]

    def poll(self) -> int:
        ended, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        for task in ended:
            try:
                self._error = self._ray.get(task) or self._error
            except Exception as error:  # Ray gave the worker up
                self._error = f"a worker on Ray was lost ({str(error).splitlines()[0]})."
        return len(self._tasks)

    def stop(self) -> None:
        for task in self._tasks:
            with contextlib.suppress(Exception):
                self._ray.cancel(task, force=False)
        if self._tasks:
            _, running = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=10)
            for task in running:
                with contextlib.suppress(Exception):
                    self._ray.cancel(task, force=True)
        self._tasks = []
        if self._started:
            self._ray.shutdown()
            self._started = False

    def error(self) -> str:
        return self._error


def _work(
    study: str, root: str, data: str | None, threads: int, run: Callable[..., Any] | None
) -> str:
    """Run a worker; return the message of a UserError, or an empty string."""
    import torch

    from vqlab.sweep.workers.loop import join
    from vqlab.tracking import Tracker

    torch.set_num_threads(threads)
    try:
        (run or join)(study, Tracker.open(Path(root)), data=Path(data) if data else None)
    except UserError as error:
        return str(error)
    except KeyboardInterrupt:
        return "stopped; the trial will be retried."
    return ""
