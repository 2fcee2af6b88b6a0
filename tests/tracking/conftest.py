"""A tracker on an empty SQLite store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vqlab.tracking import Tracker


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path) -> Tracker:
    shutil.copytree(empty_store, tmp_path / "mlruns")
    return Tracker.open(tmp_path / "mlruns")
