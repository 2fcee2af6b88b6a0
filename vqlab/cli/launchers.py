"""Options of commands that start workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from vqlab.sweep import Launcher
    from vqlab.tracking import Tracker

Workers = Annotated[int, typer.Option(min=1, help="Number of parallel worker processes.")]
LauncherKind = Annotated[
    Literal["local", "ray", "none"],
    typer.Option(
        "--launcher",
        help="Where workers are started: `local`: on this machine; `ray`: on a Ray cluster; "
        "`none`: elsewhere, with `vqlab worker STUDY`.",
    ),
]
RayAddress = Annotated[str | None, typer.Option(help="Ray cluster address; `auto`: local cluster.")]
GpusPerWorker = Annotated[float, typer.Option(min=0, help="GPUs per worker (Ray).")]
CpusPerWorker = Annotated[float, typer.Option(min=0, help="CPUs per worker (Ray).")]


@dataclass(frozen=True)
class Launching:
    """Number of workers, and how they are started."""

    workers: int
    kind: str = "local"
    address: str | None = None
    cpus: float = 1
    gpus: float = 0

    def launcher(
        self, tracker: Tracker, data: Path | None, join: Callable[..., Any] | None = None
    ) -> Launcher | Literal["elsewhere"] | None:
        """Return the launcher of workers; None: the default of the called function.

        join: function that workers on Ray call; default: that of sweeps.
        """
        if self.kind == "ray":
            from vqlab.sweep import RayWorkers

            return RayWorkers(
                self.workers, tracker.root, address=self.address, cpus=self.cpus, gpus=self.gpus,
                data=data.absolute() if data else None, join=join,
            )  # fmt: skip
        return "elsewhere" if self.kind == "none" else None
