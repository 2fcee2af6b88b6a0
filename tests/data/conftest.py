"""A small data set on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import make_category


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset of two categories, `bolt` and `nut`, in the layout of MVTec AD."""
    for name in ("bolt", "nut"):
        make_category(tmp_path / "set", name)
    return tmp_path / "set"
