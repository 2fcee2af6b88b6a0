"""Small trained models to export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vqlab.data import load_dataset
from vqlab.model import Model
from vqlab.run import calibrate_and_assess, make_trainer, resolve
from vqlab.training import choose_device

FILTERS = {"backbone": "filters"}
TINY: dict[str, dict[str, Any]] = {
    "mean_image": {"detector": "mean_image", "training": {"epochs": 0}},
    "memory_bank": {
        "features": FILTERS,
        "detector": {"name": "memory_bank", "bank_size": 50},
        "training": {"epochs": 0},
    },
    "padim": {
        "features": FILTERS,
        "detector": {"name": "padim", "dims": 20},
        "training": {"epochs": 0},
    },
    "vqvae": {
        "detector": {
            "name": "vqvae", "hidden": 4, "dim": 8, "warmup": 1, "codebook_size": 16,
            "scoring": {"context_steps": 3},
        },
        "training": {"epochs": 2},
    },
    "vqflow": {
        "features": FILTERS,
        "detector": {
            "name": "vqflow",
            "pattern": {"codebook_size": 16, "coverage": 50},
            "concept": {"codebook_size": 2},
            "flow": {"blocks": [2], "hidden": 16},
            "scoring": {"variation": 0.3},
        },
        "training": {"epochs": 1, "steps_per_epoch": 2},
    },
}  # fmt: skip


def trained(root: Path, name: str, **data: Any) -> Model:
    """Train a detector on the 32 px images in `root`."""
    sections = {"data": {"root": str(root), "categories": ["part"], "image_size": 32, **data}}
    tree = TINY[name]
    training = {**tree["training"], "device": "cpu", "threads": 1}
    config = resolve({**tree, **sections, "training": training})
    splits = load_dataset(config.data)
    trainer = make_trainer(config, splits, choose_device(config.training))
    trainer.fit(lambda epoch, metrics: None)
    return calibrate_and_assess(config, trainer, splits, "0123abcd")[0]


@pytest.fixture(scope="session")
def make_model(root: Path) -> Callable[..., Model]:
    return lambda name, **data: trained(root, name, **data)


@pytest.fixture(scope="session")
def mean_image(root: Path) -> Model:
    return trained(root, "mean_image", resize="letterbox", brightness="border")
