"""The verb `worker`: one more process that works on a study, on this or another machine."""

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


@app.command(short_help="Work on the trials of a sweep, beside others.")
def worker(
    study: Annotated[str, typer.Argument(help="The study's name, as `vqlab sweep` prints it.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="The data set's folder, where it is another one here."),
    ] = None,
    good: Annotated[
        Path | None, typer.Option(help="The folder of good images, where it is another one here.")
    ] = None,
    bad: Annotated[Path | None, typer.Option(help="Likewise, of defective images.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: all cores.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds after which no further trial is started.")
    ] = None,
    mlruns: Tracking = Path("mlruns"),
    follow: Annotated[bool, typer.Option("--follow", hidden=True)] = False,
) -> None:
    """Take trials of a study that `vqlab sweep` opened, until it has as many as it shall have.

    Needs what the sweep has: the same images, and the same stores (the same mlruns folder, or
    VQLAB_STORAGE and MLFLOW_TRACKING_URI). May be ended and killed at any moment: its trial is
    tried again by another worker.
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
        folders = Folders(data, good, bad)
        join(study, Tracker.open(mlruns), data=folders, say=_say, timeout=timeout)


def _say(event: Event) -> None:
    from vqlab.cli.progress import ended_text, out
    from vqlab.sweep import TrialFinished, TrialStarted

    if isinstance(event, TrialStarted):
        out.print(f"trial {event.number} begins")
    elif isinstance(event, TrialFinished):
        out.print(ended_text(event))


def _end_with_launcher() -> None:
    """Stop when the process at the other end of standard input is gone, however it ended."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is tidying up
    raise KeyboardInterrupt("stopped; its trial will be tried again.")
