"""A store with trained champions of two categories, and a server in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from servers import copy_store, running
from tiny_set import tiny_recipe, write_tiny_set

from vqlab.run import Recording, resolve, run
from vqlab.serve import ServeSettings
from vqlab.tracking import CHECKPOINT, Tracker


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set of the categories `part` and `lid`, 32 px."""
    return write_tiny_set(tmp_path_factory.mktemp("served_images"), ("part", "lid"))


@pytest.fixture(scope="session")
def trained_store(
    images: Path,
    new_store: Callable[[Path], Tracker],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """mlruns/ with version 1 of both categories as champions, and version 2 of `part`."""
    tracker = new_store(tmp_path_factory.mktemp("served"))
    for category, seed in (("part", 0), ("lid", 0), ("part", 1)):
        recipe = tiny_recipe(images, category, seed=seed)
        run_id = run(
            resolve(recipe), tracker, Recording(name=f"{category}{seed}"), test=False
        ).run_id
        version = tracker.registry.register(run_id, CHECKPOINT, category)
        if seed == 0:
            tracker.registry.set_champion(version, None)
    return tracker.root


@pytest.fixture
def mlruns(trained_store: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may modify."""
    return copy_store(trained_store, tmp_path / "mlruns")


@pytest.fixture(scope="session")
def server(trained_store: Path) -> Iterator[str]:
    """Address of a server of both categories."""
    with running(ServeSettings(mlruns=trained_store, device="cpu")) as address:
        yield address


@pytest.fixture
def part_server(mlruns: Path) -> Iterator[str]:
    """Address of a server of the category `part` with the store of the test."""
    with running(ServeSettings(mlruns=mlruns, categories=("part",), device="cpu")) as address:
        yield address


@pytest.fixture(scope="session")
def good_file(images: Path) -> Path:
    return images / "part" / "test" / "good" / "000.png"


@pytest.fixture(scope="session")
def defect_file(good_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of which half is white; every model rejects it."""
    pixels = np.asarray(Image.open(good_file)).copy()
    pixels[:, 16:] = 255
    path = tmp_path_factory.mktemp("defect") / "half.png"
    Image.fromarray(pixels).save(path)
    return path
