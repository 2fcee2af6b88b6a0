"""Judge the images that arrive in a folder, each exactly once."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

import torch

from vqlab.errors import UserError
from vqlab.model import Model, Prediction
from vqlab.predict.folder import Identity, identity_of, locked
from vqlab.predict.properties import properties_of
from vqlab.predict.rows import PredictedFile
from vqlab.predict.scoring import predicted_row, score_file
from vqlab.predict.workers import map_in_order
from vqlab.text import visible
from vqlab.watch.arrivals import Arrival, Arrivals
from vqlab.watch.drift import Drift, wealth_of
from vqlab.watch.lines import Lines
from vqlab.watch.picture import DriftPicture
from vqlab.watch.placing import choose_target, place
from vqlab.watch.settings import WatchSettings
from vqlab.watch.store import Part, Store
from vqlab.watch.streams import SCORE, STREAMS, shares_of
from vqlab.watch.webhook import Delivery

_LOCK = ".watch.lock"
_RECENT = 10
_SHARE = 10
"""Minimum pause between listings of the folder, as a multiple of the time that a listing takes."""


@dataclass
class Status:
    """State of a watch, for display."""

    counts: Counter[str] = field(default_factory=Counter)
    """Verdict → number of parts."""
    recent: deque[PredictedFile] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """Latest parts judged since the start of the process."""
    waiting: int = 0
    """Number of files that have not been judged yet."""
    tested: int = 0
    """Number of parts in the drift test."""
    wealths: dict[str, float] = field(default_factory=dict)
    """Weighted wealth of each stream of the test; an alarm at 1 / level."""
    level: float = 0.01
    alarm: dict[str, Any] | None = None
    undelivered: int = 0
    """Number of events that the webhook has not accepted yet."""
    noted: PredictedFile | None = None
    """The latest part with a note, since the start of the process."""
    problem: str = ""
    """Why the folder cannot be listed, or the webhook does not accept events."""


OnStatus = Callable[[Status, PredictedFile | None], None]
"""Called with the status after each part, and with None between listings of the folder."""


def watch_folder(
    model: Model,
    settings: WatchSettings,
    stop: threading.Event,
    once: bool = False,
    on_start: Callable[[list[str]], None] = lambda notes: None,
    on_status: OnStatus = lambda status, row: None,
) -> Status:
    """Judge the images of a folder until `stop` is set; return the last status.

    once: return when every file is judged. on_start: called with notes. Raises UserError if the
    output is used by another process or cannot be written, if a file cannot be moved, or if the
    model needs the category of the images.
    """
    _ = model.area  # raises before anything is written
    with locked(settings.output / _LOCK, settings.output, "vqlab watch"):
        try:
            with (
                closing(Store(settings.output, settings.folder)) as store,
                closing(Lines(settings.output, store)) as lines,
                closing(_Watch(model, settings, store, lines, on_status)) as watch,
            ):
                on_start(watch.notes)
                watch.run(stop, once)
            return watch.status
        except sqlite3.Error as error:
            raise UserError(
                f"the state in {visible(settings.output)} cannot be written ({error}); free some "
                "space or check permissions, and start vqlab watch again; nothing is lost."
            ) from None


class _Watch:
    """Everything that one process needs to judge files."""

    def __init__(
        self,
        model: Model,
        settings: WatchSettings,
        store: Store,
        lines: Lines,
        on_status: OnStatus,
    ) -> None:
        self._model, self._settings, self._on_status = model, settings, on_status
        self._store, self._lines = store, lines
        folder, output = settings.folder, settings.output
        self._drift = Drift(model, self._store, settings.level, settings.new_test, settings.streams)
        self.notes = self._drift.notes
        self._place()  # files that were judged before the process was killed
        self._arrivals = Arrivals(folder, output, settings.unchanged_for, self._store.judged)
        self._picture = DriftPicture(model, self._store, output)
        self._delivery = Delivery(settings.webhook, output, folder) if settings.webhook else None
        self.status = Status(Counter(self._store.counts()), level=settings.level)
        self._refresh()

    def close(self) -> None:
        """Draw the last picture, and deliver the remaining events if possible."""
        if self._delivery is not None:
            self._delivery.stop()
        self._picture.draw(self._drift.state.id, self._drift.alarm)
        self._refresh()

    def run(self, stop: threading.Event, once: bool) -> None:
        """Judge files until `stop` is set, or every file is judged (`once`)."""
        while not stop.is_set():
            started = time.monotonic()
            try:
                arrivals = self._arrivals.complete(started)
                self.status.problem = ""
            except OSError as error:
                reason = f"{visible(self._settings.folder)} cannot be listed: {error.strerror}"
                if once:
                    raise UserError(f"{reason}; check the path and its permissions.") from None
                arrivals, self.status.problem = [], reason
            pause = max(self._settings.poll, _SHARE * (time.monotonic() - started))
            self._judge_all(arrivals, stop)
            self._picture.draw_if_due(self._drift.state.id, self._drift.alarm)
            self._refresh()
            self._on_status(self.status, None)
            if once and not self._arrivals.waiting:
                return
            stop.wait(pause)

    def _judge_all(self, arrivals: list[Arrival], stop: threading.Event) -> None:
        """Judge files in order; on a CPU several at the same time."""
        threads = torch.get_num_threads() if self._model.device.type == "cpu" else 1
        files = [(arrival.path, "") for arrival in arrivals]
        results = map_in_order(partial(score_file, self._model), files, threads)
        with closing(results):
            for arrival, (identity, _, prediction) in zip(arrivals, results, strict=True):
                self._judge(arrival, identity, prediction)
                if stop.is_set():
                    return

    def _judge(self, arrival: Arrival, identity: Identity, prediction: Prediction | str) -> None:
        """Store the verdict of a file; leave it if it is not complete."""
        if identity != arrival.identity or identity_of(arrival.path) != identity:
            return  # changed in the meantime
        if isinstance(prediction, str) and arrival.unchanged < self._settings.patience:
            return  # the rest may follow
        row = predicted_row(self._model, arrival.path, prediction)
        with self._store.transaction():
            self._add(arrival, row, prediction)
        self._lines.update()
        self._place()
        self._arrivals.remove(arrival)
        self.status.counts[row.verdict] += 1
        self.status.recent.append(row)
        self.status.noted = row if row.note else self.status.noted
        self._refresh()
        self._on_status(self.status, row)

    def _add(self, arrival: Arrival, row: PredictedFile, prediction: Prediction | str) -> None:
        """Add a part with its drift test and its events to the transaction."""
        settings, store, drift = self._settings, self._store, self._drift
        number, target = store.next_part(), None
        if settings.sort != "none":
            target = choose_target(
                store, settings.folder, settings.output, arrival.path, row.verdict
            )
        line: dict[str, Any] = {"part": number, "time": _now(), **asdict(row), "target": target}
        properties: dict[str, Any] = dict.fromkeys(STREAMS[1:])
        log_wealths: dict[str, float] = {}
        if not isinstance(prediction, str):
            properties = properties_of(prediction)
            steps = drift.update({SCORE: prediction.score, **properties})
            log_wealths = {name: step.log_wealth for name, step in steps.items()}
            wealths = {name: wealth_of(share) for name, share in shares_of(log_wealths).items()}
            line["drift_p_value"] = steps[SCORE].p_value if SCORE in steps else None
            line |= {"wealth": max(wealths.values()), "wealths": wealths}
        line |= properties
        text = json.dumps(line, ensure_ascii=False)
        log_wealth = max(shares_of(log_wealths).values(), default=None)
        part = Part(
            number, row.file, arrival.identity, row.verdict, row.score, **properties,
            log_wealth=log_wealth, log_wealths=log_wealths, line=text, target=target,
        )  # fmt: skip
        store.add(part, drift.state.id, settings.sort)
        alarm = drift.check(part)
        if settings.webhook is not None:
            store.add_event(_event("part.judged", line))
            if alarm is not None:
                store.add_event(_event("drift.alarm", alarm))

    def _place(self) -> None:
        """Move or copy the files that are still to be sorted."""
        for part, mode in self._store.unplaced():
            place(part, mode)
            self._store.placed(part.id)

    def _refresh(self) -> None:
        """Update the status."""
        status = self.status
        status.waiting = self._arrivals.waiting
        status.tested, status.wealths = self._drift.count, self._drift.wealths
        status.alarm = self._drift.alarm
        if self._delivery is not None:
            status.undelivered, error = self._store.undelivered()
            status.problem = status.problem or (error and f"webhook: {error}")


def _event(kind: str, data: dict[str, Any]) -> str:
    return json.dumps({"type": kind, "timestamp": _now(), "data": data}, ensure_ascii=False)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
