"""Command `worker`: run trials of an existing study, on this or another machine."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import Tracking

if TYPE_CHECKING:
    from vqlab.sweep import Event


@app.command(short_help="Run trials of a study, or cells of a benchmark, alongside others.")
def worker(
    study: Annotated[
        str,
        typer.Argument(help="Name of the study, as printed by `vqlab sweep` or `benchmark`."),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Dataset folder, if it differs on this machine."),
    ] = None,
    good: Annotated[
        Path | None, typer.Option(help="Folder of normal images, if it differs on this machine.")
    ] = None,
    bad: Annotated[
        Path | None, typer.Option(help="Folder of anomalous images, if it differs.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Number of CPU threads; default: all cores.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Start no further trial after this many seconds.")
    ] = None,
    mlruns: Tracking = Path("mlruns"),
    follow: Annotated[bool, typer.Option("--follow", hidden=True)] = False,
) -> None:
    """Run trials of a study created by `vqlab sweep` until it reaches its target number of trials,
    or cells of a benchmark until none is left.

    The worker needs the same images and the same stores (the same mlruns folder, or VQLAB_STORAGE
    and MLFLOW_TRACKING_URI). Safe to stop or kill at any time: another worker retries its trial.
    """
    signal.signal(signal.SIGTERM, _stop)
    if follow:
        threading.Thread(target=_end_with_launcher, daemon=True).start()

    from vqlab.cli.progress import interruptible
    from vqlab.recipes import Folders
    from vqlab.sweep import join
    from vqlab.tracking import Tracker

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    with interruptible():
        folders, tracker = Folders(data, good, bad), Tracker.open(mlruns)
        if tracker.runs(kinds=["benchmark"], tags={"vqlab.study": study}):
            from vqlab.benchmark import join as join_benchmark

            join_benchmark(study, tracker, data=folders)
        else:
            join(study, tracker, data=folders, emit=_print_event, timeout=timeout)


def _print_event(event: Event) -> None:
    from vqlab.cli.progress import ended_text, out
    from vqlab.sweep import TrialFinished, TrialStarted

    if isinstance(event, TrialStarted):
        out.print(f"trial {event.key} started")
    elif isinstance(event, TrialFinished):
        out.print(ended_text(event))


def _end_with_launcher() -> None:
    """Stop when the process that holds the other end of standard input has ended."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # do not interrupt the clean-up
    raise KeyboardInterrupt("stopped; the trial will be retried.")
