"""Progress bars on a terminal, occasional lines in a log file."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vqlab.cli.terminal import out as out
from vqlab.text import visible, visible_lines

if TYPE_CHECKING:
    from vqlab.run import OnEpoch, OnProgress
    from vqlab.sweep import Event, OnEvent, TrialFinished

_LOG_INTERVAL = 30.0
"""Seconds between progress lines in a log file."""

_METRICS = {
    "train/loss": "loss",
    "codebook/perplexity": "perplexity",
    "codebook/dead_codes": "dead codes",
    "validation/pixel_auroc": "validation pixel AUROC",
}
"""Metrics shown during training, with their titles."""


def bars() -> Progress:
    """Return progress bars, hidden in a log file."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        console=out,
        disable=not out.is_terminal,
    )


@contextmanager
def interruptible() -> Iterator[None]:
    """On Ctrl-C, print how to resume and exit with status 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        message = visible_lines(str(error)) or "interrupted; nothing is lost."
        print(f"vqlab: {message}", file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def counting() -> Iterator[OnProgress]:
    """Yield a callback that shows one progress bar per task, or one line in a log file."""
    progress = bars()
    with progress:
        yield partial(count, progress, {})


@contextmanager
def rating(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback for a progress bar with a rate in `unit`; in a log file, a line per 30 s."""
    progress = bars()
    task = progress.add_task(title, total=None, metrics="")
    started = logged = time.monotonic()
    initial: int | None = None

    def on_progress(completed: int, total: int) -> None:
        nonlocal initial, logged
        now = time.monotonic()
        initial = completed - 1 if initial is None else initial  # before an interruption
        rate = f"{(completed - initial) / max(now - started, 1e-9):.3g} {unit}"
        progress.update(task, completed=completed, total=total, metrics=rate)
        if not out.is_terminal and (now - logged > _LOG_INTERVAL or completed == total):
            logged = now
            out.print(f"{title}: {completed} of {total}, {rate}")

    with progress:
        yield on_progress


def count(
    progress: Progress, tasks: dict[str, TaskID], title: str, completed: int, total: int
) -> None:
    if title not in tasks:
        tasks[title] = progress.add_task(visible(title), total=total, metrics="")
        if not out.is_terminal:
            out.print(f"{title}: {total}")
    progress.update(tasks[title], completed=completed, total=total)


@contextmanager
def work(title: str) -> Iterator[tuple[OnEpoch, OnProgress]]:
    """Yield callbacks for progress bars over epochs and over later steps (scoring, plotting).

    In a log file: one line per epoch and per later step.
    """
    progress = bars()
    training = progress.add_task(visible(title), total=None, metrics="")

    def on_epoch(epoch: int, total: int, metrics: dict[str, float]) -> None:
        progress.update(training, completed=epoch, total=total, metrics=metrics_text(metrics))
        if not out.is_terminal:
            out.print(f"{title}: epoch {epoch} of {total}, {metrics_text(metrics)}")

    with progress:
        yield on_epoch, partial(count, progress, {})


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return the main training metrics on one line."""
    items = _METRICS.items()
    return ", ".join(f"{title} {metrics[key]:.4g}" for key, title in items if key in metrics)


@contextmanager
def sweeping() -> Iterator[OnEvent]:
    """Yield a callback that shows progress bars over trials, epochs of running trials and other
    tasks, and prints a line per finished trial."""
    from vqlab.sweep import (
        EpochDone,
        Progressed,
        StudyOpened,
        TrialFinished,
        TrialKey,
        TrialStarted,
        WorkerEnded,
    )

    progress = bars()
    trials = progress.add_task("trials", total=None, metrics="")
    epochs: dict[TrialKey, TaskID] = {}
    counted: dict[str, TaskID] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, StudyOpened):
            progress.update(trials, completed=event.done, total=event.target)
            out.print(f"study {event.study}, {event.done} of {event.target} trials done")
            for note in event.notes:
                out.print(f"note: {note}")
        elif isinstance(event, TrialStarted):
            title = f"trial {event.key}, epochs"
            epochs[event.key] = progress.add_task(visible(title), total=None, metrics="")
        elif isinstance(event, EpochDone) and event.key in epochs:
            bar, text = epochs[event.key], metrics_text(event.metrics)
            progress.update(bar, completed=event.epoch, total=event.epochs, metrics=text)
        elif isinstance(event, Progressed):
            count(progress, counted, event.task, event.done, event.total)
        elif isinstance(event, TrialFinished):
            if event.trial.key in epochs:
                progress.remove_task(epochs.pop(event.trial.key))
            progress.update(trials, completed=event.done, total=event.target)
            out.print(ended_text(event))
        elif isinstance(event, WorkerEnded):
            out.print(f"note: a worker ended: {event.reason}")

    with progress:
        yield on_event


def ended_text(event: TrialFinished) -> str:
    """Return the line printed for a finished trial."""
    trial = event.trial
    value = "" if trial.value is None else f" {trial.value:.4f}"
    seconds = "" if trial.seconds is None else f", {trial.seconds:.0f} s"
    best = "" if event.best is None else f"; winner so far: trial {event.best.key}"
    best += "" if event.best is None or event.best.value is None else f" {event.best.value:.4f}"
    reason = f" ({trial.reason})" if trial.reason else ""
    result = f"trial {trial.key} {trial.state}{value}{reason}{seconds}"
    done = f"{event.done} of {event.target}"
    return f"{result}: {settings_text(trial.params)}{best}; {done}"


def settings_text(params: Mapping[str, object]) -> str:
    """Return settings in short form: last component of each path (two if ambiguous), four digits,
    lists joined by `+`."""
    texts = []
    names = Counter(path.rpartition(".")[2] for path in params)
    for path, value in params.items():
        if isinstance(value, str) and value.startswith("["):
            value = json.loads(value)
        if isinstance(value, list):
            value = "+".join(map(str, value))
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        section, _, name = path.rpartition(".")
        section = f"{section.rpartition('.')[2]}." if names[name] > 1 else ""
        texts.append(f"{section}{name}={text}")
    return " ".join(texts)
