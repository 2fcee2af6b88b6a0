"""What tests of sweeps share."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest


@pytest.fixture(scope="module", autouse=True)
def _verbosity() -> Iterator[None]:
    """A sweep quiets Optuna; other tests hear it again."""
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)
