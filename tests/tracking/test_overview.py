"""The overview of a store, read from its tables, agrees with MLflow."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tracked_runs import start

from vqlab.errors import UserError
from vqlab.tracking import CHECKPOINT, TESTED_CHARTS, Tracker, overview
from vqlab.tracking.overview import read_overview
from vqlab.tracking.views import Runs, table_view

PROGRAM = """
import json, pathlib, sys
from vqlab.tracking.overview import read_overview

overview = read_overview(pathlib.Path(sys.argv[1]))
print(json.dumps([len(overview.runs), "mlflow" in sys.modules]))
"""


@pytest.fixture
def filled_store(tracker: Tracker) -> Tracker:
    for name, category in (("first", "cable"), ("better", "cable"), ("nut", "nut")):
        with start(tracker, name, category, category=category, categories=f'["{category}"]') as run:
            run.log_metrics({"test/image_auroc": 0.9})
            run.log_text("weights", CHECKPOINT)
    before = None
    for name in ("first", "better"):
        version = tracker.registry.register(tracker.find(name).run_id, CHECKPOINT, "cable")
        tracker.registry.set_champion(version, before)
        before = version
    view = table_view("table", [], Runs("", "test/image_auroc"))
    tracker.pages("cable").save({TESTED_CHARTS: view})
    return tracker


def test_tables_agree_with_mlflow(filled_store: Tracker) -> None:
    read, expected = read_overview(filled_store.root), overview._read_with_mlflow(filled_store.root)
    assert read == expected and len(read.runs) == 3
    assert read.champions == {filled_store.find("better").run_id}
    assert list(read.charts) == ["cable"] and TESTED_CHARTS in read.charts["cable"]


def test_tables_are_read_without_importing_mlflow(filled_store: Tracker) -> None:
    command = [sys.executable, "-c", PROGRAM, str(filled_store.root)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [3, False]


def test_killed_run_is_marked(filled_store: Tracker) -> None:
    run = start(filled_store, "killed")
    assert [r.status for r in read_overview(filled_store.root).runs if r.name == "killed"] == [
        "RUNNING"
    ]
    filled_store._client.set_tag(run.id, "vqlab.pid", "999999999")
    assert [r.status for r in read_overview(filled_store.root).runs if r.name == "killed"] == [
        "FAILED"
    ]


def test_store_of_another_version_raises(filled_store: Tracker, tmp_path: Path) -> None:
    older = tmp_path / "older"  # a new path, because MLflow checks a store once per process
    shutil.copytree(filled_store.root, older)
    with contextlib.closing(sqlite3.connect(older / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
        connection.execute("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO nan")
        connection.commit()
    with pytest.raises(UserError, match="created by another version of MLflow"):
        read_overview(older)
