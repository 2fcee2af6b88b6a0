"""What tests share: a data set on disk and small settings that run in a second or two."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parent.parent
os.environ.pop("MLFLOW_TRACKING_URI", None)  # a developer's own server is no place for tests
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in set with its `cable` and one texture; made once for all test processes."""
    from vqlab.data.synthetic import make_synthetic

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    return make_synthetic(base / "synthetic-set", ["cable", "fabric"])


@pytest.fixture(scope="session")
def small(synthetic_root: Path) -> dict[str, object]:
    """A recipe's tree that trains in about a second."""
    return {
        "data": {"root": str(synthetic_root), "categories": ["cable"], "image_size": 32},
        "detector": {
            "name": "vqvae",
            "hidden": 8,
            "warmup": 5,
            "codebook_size": 32,
            "dim": 16,
            "scoring": {"context_steps": 5},
        },
        "training": {"epochs": 3, "device": "cpu"},
    }
