"""A tracker on an empty SQLite store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vqlab.tracking import Tracker


@pytest.fixture
def tracker(new_store: Callable[[Path], Tracker], tmp_path: Path) -> Tracker:
    return new_store(tmp_path)
