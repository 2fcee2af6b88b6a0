"""The end of a command's process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, gc, sys
from pathlib import Path
from vqlab.cli import main

atexit.register(lambda: print("frozen", gc.get_freeze_count() > 0))
if len(sys.argv) > 2:
    from vqlab.tracking import Tracker
    tracker = Tracker.open(Path(sys.argv.pop()))
main()
"""


@pytest.mark.parametrize("database", [False, True])
def test_objects_are_frozen_unless_databases_are_open(tmp_path: Path, database: bool) -> None:
    folder = [str(tmp_path)] if database else []
    command = [sys.executable, "-c", PROGRAM, "--version", *folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"frozen {not database}"
    assert (tmp_path / "mlflow.db").exists() == database
    assert not list(tmp_path.glob("*-wal"))  # SQLite removes it with the last connection
