"""The state of a drift test, read by other processes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vqlab.watch.drift import wealths_of
from vqlab.watch.store import NAME, latest_test


@dataclass(frozen=True)
class DriftState:
    """State of the latest drift test of a watched folder."""

    tested: int
    """Number of parts in the test."""
    wealths: dict[str, float]
    """Weighted wealth of each stream, see `DriftStreams`: at most 1 at the start of the test; an
    alarm at 1 / level."""
    level: float
    alarm: str | None
    """The alarm as a sentence."""
    model: str
    """Digest of the model, see `Model.digest`."""

    @property
    def wealth(self) -> float:
        """Largest weighted wealth of a stream."""
        return max(self.wealths.values())


def read_drift_state(output: Path) -> DriftState | None:
    """Return the state that `vqlab watch` stores in an output folder, also while it runs; None if
    there is none, or if it cannot be read."""
    path = output / NAME
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            test = latest_test(database)
    except (sqlite3.Error, ValueError):
        return None
    if test is None or not test.accounts:
        return None
    alarm = test.alarm["text"] if test.alarm else None
    return DriftState(test.count, wealths_of(test.martingales), test.level, alarm, test.model)
