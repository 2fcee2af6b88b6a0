"""A model that needs no training, a folder of photos, and a receiver of events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from receiver import Receiver
from tiny_model import tiny_model

from vqlab.model import Model


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model(0.4, [0.2 + 0.01 * n for n in range(20)])


@pytest.fixture(scope="session")
def checkpoint(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started
