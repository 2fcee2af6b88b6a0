"""What tests share: a small data set on disk and settings that run in a second or two."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

REPOSITORY = Path(__file__).parent.parent
SIDE = 64
os.environ.pop("MLFLOW_TRACKING_URI", None)  # a developer's own server is no place for tests
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run in the background of a shell, where
    # what tests start would never hear Ctrl-C either
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _write(path: Path, pixels: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX).save(path)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in MVTec AD's layout, 64 px: some pictures of the synthetic cable and fabric."""
    from vqlab.data.synthetic import sample

    root = tmp_path_factory.mktemp("small")
    for category, defects, train in (
        ("cable", ("missing_cable", "cut_outer_insulation"), 14),
        ("fabric", ("hole",), 8),
    ):
        for index in range(train + 4):
            split = "train" if index < train else "test"
            image, _ = sample(category, 0, index)
            _write(root / category / split / "good" / f"{index:03d}.png", image)
        for defect in defects:
            for index in range(3):
                image, mask = sample(category, 0, index, defect)
                _write(root / category / "test" / defect / f"{index:03d}.png", image)
                truth = root / category / "ground_truth" / defect / f"{index:03d}_mask.png"
                _write(truth, mask.astype("uint8") * 255)
    return root


@pytest.fixture(scope="session")
def small(small_root: Path) -> dict[str, object]:
    """A recipe's tree that trains in about a second."""
    return {
        "data": {"root": str(small_root), "categories": ["cable"], "image_size": 32},
        "detector": {
            "name": "vqvae",
            "hidden": 8,
            "warmup": 2,
            "codebook_size": 32,
            "dim": 16,
            "scoring": {"context_steps": 5},
        },
        "training": {"epochs": 3, "device": "cpu"},
    }
