"""Fixtures shared by tests of sweeps."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest


@pytest.fixture(scope="module", autouse=True)
def _verbosity() -> Iterator[None]:
    """Restore the verbosity of Optuna, which a sweep lowers."""
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)
