"""Command `watch`: judge images as they arrive in a folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.models import ModelRef
from vqlab.cli.options import Category, Tracking

if TYPE_CHECKING:
    from vqlab.predict import PredictedFile
    from vqlab.watch import Status

_LOG_INTERVAL = 60.0
"""Seconds between summaries in a log file."""


@app.command(short_help="Judge images as they arrive in a folder; detect drift.")
def watch(
    folder: Annotated[
        Path, typer.Argument(help="Folder in which images arrive (searched recursively).")
    ],
    model: ModelRef = "champion",
    category: Category = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for state, parts.jsonl, drift.png and sorted files; default: "
            "results/watch/CATEGORY.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            help="`copy` or `move` each file to pass/, review/, reject/ or unreadable/ in the "
            "output folder; `none`: leave it."
        ),
    ] = "none",
    webhook: Annotated[
        str | None,
        typer.Option(
            help="URL that receives each verdict and alarm as a POST request, signed with the "
            "secret in VQLAB_WEBHOOK_SECRET."
        ),
    ] = None,
    level: Annotated[
        float, typer.Option(help="Maximum probability that a drift test ever gives a false alarm.")
    ] = 0.01,
    new_test: Annotated[
        bool, typer.Option("--new-test", help="Start a new drift test, e.g. after an alarm.")
    ] = False,
    streams: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated properties that the drift test uses: score, brightness, "
            "sharpness, noise, concept. Default: score,noise, or those of the test that continues."
        ),
    ] = None,
    unchanged_for: Annotated[
        float,
        typer.Option(
            min=0,
            help="Seconds that a file must remain unchanged before it is read; 0 if files are "
            "moved into the folder by renaming.",
        ),
    ] = 1.0,
    patience: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds after which a file that cannot be decoded is unreadable."
        ),
    ] = 30.0,
    settle: Annotated[
        float | None, typer.Option(min=0, hidden=True, help="Former name of --unchanged-for.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Exit when every file in the folder has been judged.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(help="Inference engine of the backbone, as in `vqlab predict`."),
    ] = None,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Judge images as they arrive in a folder (stop it with Ctrl-C; safe to kill at any time).

    parts.jsonl in the output folder has one line per file: the fields of scores.jsonl of `vqlab
    predict`, part, time, brightness, sharpness, noise, concept, drift_p_value, wealth, wealths and
    target. No file is judged twice or lost, even if the process is killed. A drift alarm means that
    the arriving parts differ from the held-out normal images of the model.
    """
    from vqlab.cli.terminal import out
    from vqlab.predict import load_model
    from vqlab.text import folder_name, visible
    from vqlab.watch import WatchSettings, Webhook, watch_folder

    secret = os.environ.get("VQLAB_WEBHOOK_SECRET")
    hook = None if webhook is None else Webhook.of(webhook, secret)
    loaded = load_model(model, category, mlruns).use_engine(engine)
    settings = WatchSettings(
        folder=folder,
        output=output or Path("results/watch") / folder_name(category or loaded.category),
        sort=sort,  # type: ignore[arg-type]
        unchanged_for=unchanged_for if settle is None else settle,
        patience=patience,
        level=level,
        new_test=new_test,
        streams=None if streams is None else tuple(streams.replace(" ", "").split(",")),
        webhook=hook,
    )

    def on_start(notes: list[str]) -> None:
        out.print(f"watching {visible(settings.folder)}; output: {visible(settings.output)}")
        for note in notes:
            out.print(f"note: {note}")

    stop = threading.Event()
    with _stopping(stop), _showing(loaded.category) as on_status:
        status = watch_folder(loaded, settings, stop, once, on_start, on_status)
    from vqlab.cli.watch_table import summary_text

    out.print(summary_text(status))
    if status.undelivered:
        text = f"{status.undelivered} webhook events are undelivered and sent at the next start."
        print(f"vqlab: {text}", file=sys.stderr)


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Set the event on Ctrl-C and SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _showing(title: str) -> Iterator[Callable[[Status, PredictedFile | None], None]]:
    """Yield a callback that shows a live table on a terminal, and lines in a log file."""
    from rich.live import Live

    from vqlab.cli.terminal import out
    from vqlab.cli.watch_table import alarm_text, part_text, status_table, summary_text

    alarmed = False
    logged = time.monotonic()

    def print_alarm(status: Status) -> None:
        nonlocal alarmed
        if status.alarm is not None and not alarmed:
            alarmed = True
            out.print(alarm_text(status.alarm))

    def log(status: Status, row: PredictedFile | None) -> None:
        nonlocal logged
        if row is not None:
            out.print(part_text(row))
        elif time.monotonic() - logged > _LOG_INTERVAL:
            logged = time.monotonic()
            out.print(summary_text(status))
        print_alarm(status)

    if not out.is_terminal:
        yield log
        return
    with Live(console=out, auto_refresh=False) as live:

        def show(status: Status, row: PredictedFile | None) -> None:
            print_alarm(status)
            live.update(status_table(title, status), refresh=True)

        yield show
