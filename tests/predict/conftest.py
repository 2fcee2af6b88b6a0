"""A model that needs no training, and folders of small photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from small_photos import write_photo

from vqlab.evaluation import Thresholds
from vqlab.features import Backbone
from vqlab.model import Model, build_detector
from vqlab.run import resolve


def _model(image_threshold: float) -> Model:
    tree = {"data": {"categories": ["part"], "image_size": 32}, "detector": {"name": "mean_image"}}
    config = resolve(tree)
    backbone = Backbone(config.features, config.data.image_size)
    thresholds = Thresholds(image_threshold, 2.0)
    meta = {
        "config": config.model_dump(mode="json"),
        "data": {"categories": ["part"]},
        "thresholds": asdict(thresholds),
    }
    detector = build_detector(meta["config"]["detector"], backbone.spec).eval()
    detector.sd.fill_(0.2)  # type: ignore[operator, union-attr]
    return Model(detector, backbone, config.data, thresholds, meta, torch.device("cpu"))


@pytest.fixture(scope="session")
def model() -> Model:
    return _model(1.0)


@pytest.fixture(scope="session")
def stricter() -> Model:
    """The same but for its threshold."""
    return _model(0.5)


@pytest.fixture(scope="session")
def checkpoint(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model.save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Callable[[int], Path]:
    """Write so many photos to a folder and return it."""

    def write(count: int) -> Path:
        for index in range(count):
            write_photo(tmp_path / f"photos/{index:03d}.png", index)
        return tmp_path / "photos"

    return write
