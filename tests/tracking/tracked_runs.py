"""Helpers for runs in a store."""

from __future__ import annotations

import contextlib
import sqlite3

import numpy as np

from vqlab.tracking import Run, Tracker

BLACK = np.zeros((40, 50, 3), np.uint8)
MODE = "?workflowType=machine_learning"


def start(tracker: Tracker, name: str = "one", experiment: str = "cable", **tags: str) -> Run:
    every = {f"vqlab.{key}": value for key, value in tags.items()}
    return tracker.start(experiment=experiment, name=name, tags=every)


def history(tracker: Tracker, run_id: str, key: str) -> list[tuple[int, float]]:
    """Return every stored value of a metric, read directly from the database."""
    with contextlib.closing(sqlite3.connect(tracker.root / "mlflow.db")) as connection:
        rows = connection.execute(
            "SELECT step, value FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step",
            (run_id, key),
        )
        return rows.fetchall()
