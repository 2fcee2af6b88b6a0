"""Picture of a drift test, redrawn periodically."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from vqlab.model import Model
from vqlab.watch.store import Part, Store
from vqlab.watch.streams import shares_of

NAME = "drift.png"
_INTERVAL = 60.0
"""Seconds between pictures."""


class DriftPicture:
    """Draws `drift.png` at the alarm, every minute if there are new parts, and at the end."""

    def __init__(self, model: Model, store: Store, output: Path) -> None:
        self._model, self._store, self._path = model, store, output / NAME
        self._last_part = 0
        self._time = time.monotonic()
        self._alarmed = False

    def draw_if_due(self, test: int, alarm: dict[str, Any] | None) -> None:
        """Draw the test if a minute has passed or an alarm is new."""
        if time.monotonic() - self._time >= _INTERVAL or (alarm is not None and not self._alarmed):
            self.draw(test, alarm)

    def draw(self, test: int, alarm: dict[str, Any] | None) -> None:
        """Draw the test if there are new parts."""
        self._time, self._alarmed = time.monotonic(), alarm is not None
        last = self._store.next_part() - 1
        if last == self._last_part:
            return
        from vqlab.plots import save_figure  # matplotlib is slow to import
        from vqlab.plots.drift import drift_figure

        parts = [part for part in self._store.parts(test) if part.log_wealth is not None]
        if not parts:
            return
        self._last_part = last
        state = self._store.test()
        assert state is not None
        thresholds = self._model.thresholds
        figure = drift_figure(
            self._model.category,
            np.array([part.id for part in parts]),
            {name: np.array([_share(part, name) for part in parts]) for name in state.accounts},
            np.array([part.score for part in parts]),
            state.level,
            thresholds.image,
            None if alarm is None else (alarm["since_part"], alarm["part"]),
        )
        save_figure(figure, self._path)


def _share(part: Part, stream: str) -> float | None:
    """Return the logarithm of the weighted wealth of a stream after a part. Earlier versions stored
    that of the score only."""
    return shares_of(part.log_wealths)[stream] if part.log_wealths else part.log_wealth
