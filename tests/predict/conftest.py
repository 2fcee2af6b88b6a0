"""A model that needs no training, and folders of small photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_photos import write_photo
from tiny_model import tiny_model

from vqlab.model import Model


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model(1.0)


@pytest.fixture(scope="session")
def stricter() -> Model:
    """The same model with a lower threshold."""
    return tiny_model(0.5)


@pytest.fixture(scope="session")
def checkpoint(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[int], Path]:
    """Write a number of photos to a folder and return it."""

    def write(count: int) -> Path:
        for index in range(count):
            write_photo(tmp_path / f"photos/{index:03d}.png", index)
        return tmp_path / "photos"

    return write
