"""Progress: bars on a terminal, a line now and then in a log file."""

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

_SAID_EVERY = 30.0
"""Seconds between two lines on progress in a log file."""

WATCHED = {
    "train/loss": "loss",
    "codebook/perplexity": "perplexity",
    "codebook/dead_codes": "dead codes",
    "validation/pixel_auroc": "validation pixel AUROC",
}


def _bars() -> Progress:
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
    """Ctrl-C inside ends the program with the sentence that says how to go on, and status 130."""
    try:
        yield
    except KeyboardInterrupt as error:
        sentence = visible_lines(str(error)) or "interrupted; nothing is lost."
        print(f"vqlab: {sentence}", file=sys.stderr)
        raise SystemExit(130) from None


@contextmanager
def counting() -> Iterator[OnProgress]:
    """A progress bar for every kind of work that is counted; a line each where not a terminal."""
    progress = _bars()
    with progress:
        yield partial(_count, progress, {})


@contextmanager
def rating(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the rate in `unit`; where not a terminal, a line every 30 seconds."""
    progress = _bars()
    task = progress.add_task(what, total=None, metrics="")
    started = said = time.monotonic()
    before: int | None = None

    def on_progress(done: int, total: int) -> None:
        nonlocal before, said
        now = time.monotonic()
        before = done - 1 if before is None else before  # done by a run that was interrupted
        rate = f"{(done - before) / max(now - started, 1e-9):.3g} {unit}"
        progress.update(task, completed=done, total=total, metrics=rate)
        if not out.is_terminal and (now - said > _SAID_EVERY or done == total):
            said = now
            out.print(f"{what}: {done} of {total}, {rate}")

    with progress:
        yield on_progress


def _count(progress: Progress, tasks: dict[str, TaskID], what: str, done: int, total: int) -> None:
    if what not in tasks:
        tasks[what] = progress.add_task(visible(what), total=total, metrics="")
        if not out.is_terminal:
            out.print(f"{what}: {total}")
    progress.update(tasks[what], completed=done, total=total)


@contextmanager
def work(title: str) -> Iterator[tuple[OnEpoch, OnProgress]]:
    """Progress bars over epochs and over what follows them (scoring, drawing).

    Where the output is not a terminal: a line per epoch, and one at the start of what follows.
    """
    progress = _bars()
    training = progress.add_task(visible(title), total=None, metrics="")

    def on_epoch(epoch: int, total: int, metrics: dict[str, float]) -> None:
        progress.update(training, completed=epoch, total=total, metrics=watched(metrics))
        if not out.is_terminal:
            out.print(f"{title}: epoch {epoch} of {total}, {watched(metrics)}")

    with progress:
        yield on_epoch, partial(_count, progress, {})


def watched(metrics: Mapping[str, float]) -> str:
    """The few figures worth watching while training, on one line."""
    return ", ".join(
        f"{word} {metrics[key]:.4g}" for key, word in WATCHED.items() if key in metrics
    )


@contextmanager
def sweeping() -> Iterator[OnEvent]:
    """A sweep as it goes: a bar over trials, one over the epochs of each trial under way, one for
    each kind of other work that is counted, and a line for every trial that ended."""
    from vqlab.sweep import (
        EpochDone,
        Progressed,
        StudyOpened,
        TrialFinished,
        TrialStarted,
        WorkerEnded,
    )

    progress = _bars()
    trials = progress.add_task("trials", total=None, metrics="")
    epochs: dict[int, TaskID] = {}
    counted: dict[str, TaskID] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, StudyOpened):
            progress.update(trials, completed=event.done, total=event.target)
            out.print(f"study {event.study}, {event.done} of {event.target} trials done")
            for note in event.notes:
                out.print(f"note: {note}")
        elif isinstance(event, TrialStarted):
            of = f" ({event.recipe})" if event.recipe else ""
            title = f"trial {event.number}{of}, epochs"
            epochs[event.number] = progress.add_task(visible(title), total=None, metrics="")
        elif isinstance(event, EpochDone) and event.number in epochs:
            bar, text = epochs[event.number], watched(event.metrics)
            progress.update(bar, completed=event.epoch, total=event.epochs, metrics=text)
        elif isinstance(event, Progressed):
            _count(progress, counted, event.what, event.done, event.total)
        elif isinstance(event, TrialFinished):
            if event.trial.number in epochs:
                progress.remove_task(epochs.pop(event.trial.number))
            progress.update(trials, completed=event.done, total=event.target)
            out.print(ended_text(event))
        elif isinstance(event, WorkerEnded):
            out.print(f"note: a worker ended: {event.reason}")

    with progress:
        yield on_event


def ended_text(event: TrialFinished) -> str:
    """A line on a trial that ended."""
    trial = event.trial
    value = "" if trial.value is None else f" {trial.value:.4f}"
    seconds = "" if trial.seconds is None else f", {trial.seconds:.0f} s"
    best = "" if event.best is None else f"; best so far: trial {event.best.number}"
    best += "" if event.best is None or event.best.value is None else f" {event.best.value:.4f}"
    reason = f" ({trial.reason})" if trial.reason else ""
    said = f"trial {trial.number} {trial.state}{value}{reason}{seconds}"
    done = f"{event.done} of {event.target}"
    return f"{said}: {settings_text(trial.params)}{best}; {done}"


def settings_text(params: Mapping[str, object]) -> str:
    """A trial's settings in short: the last words of their paths (two where one is ambiguous), four
    digits, `error+context`."""
    words = []
    ends = Counter(path.rpartition(".")[2] for path in params)
    for path, value in params.items():
        if isinstance(value, str) and value.startswith("["):
            value = "+".join(map(str, json.loads(value)))
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        section, _, name = path.rpartition(".")
        section = f"{section.rpartition('.')[2]}." if ends[name] > 1 else ""
        words.append(f"{section}{name}={text}")
    return " ".join(words)
