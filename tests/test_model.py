"""A model is loaded without plotting or tracking libraries."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import overflowing_model, tiny_model

from vqlab.checkpoint import save_checkpoint
from vqlab.data import load_dataset
from vqlab.errors import ScoreError
from vqlab.model import Model
from vqlab.run import calibrate_and_assess, make_trainer, resolve
from vqlab.training import choose_device
from vqlab.types import UserError

LOAD = """
import json, sys
import numpy as np
import vqlab
model = vqlab.load(sys.argv[1])
score = model.score(np.zeros((32, 32, 3), np.uint8)).score
heavy = {"matplotlib", "mlflow", "optuna", "plotly", "timm", "torch._dynamo", "typer"}
heavy &= set(sys.modules)
sys.modules.update(mlflow=None, optuna=None, timm=None)
import vqlab.training, vqlab.evaluation, vqlab.checkpoint, vqlab.model
print(json.dumps([score, sorted(heavy)]))
"""


@pytest.mark.parametrize("backbone", ["pixels", "test_resnet"])
def test_new_process_loads_and_scores_without_heavy_libraries(
    root: Path, tmp_path: Path, backbone: str
) -> None:
    """The training core is imported with the tracking libraries blocked."""
    data = {"root": str(root), "categories": ["part"], "image_size": 32}
    features = {"backbone": backbone, "weights": "random", "cache": False}
    detector = "mean_image" if backbone == "pixels" else "padim"
    config = resolve(
        {"data": data, "features": features, "detector": detector, "training": {"epochs": 0}}
    )
    splits = load_dataset(config.data)
    trainer = make_trainer(config, splits, choose_device(config.training))
    trainer.fit(lambda epoch, metrics: None)
    model = calibrate_and_assess(config, trainer, splits, "none")[0]
    model.save(tmp_path / "model.safetensors")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    score, heavy = json.loads(done.stdout)
    assert score == pytest.approx(model.score(np.zeros((32, 32, 3), np.uint8)).score, rel=1e-5)
    assert score > 0 and heavy == []
    assert Model.load(tmp_path / "model.safetensors").digest == model.digest


def without(tree: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: [],
        lambda meta: without(meta, "config"),
        lambda meta: meta | {"config": [1]},
        lambda meta: meta | {"config": without(meta["config"], "features")},
        lambda meta: meta | {"config": meta["config"] | {"detector": "vqvae"}},
        lambda meta: meta | {"config": meta["config"] | {"detector": {"name": 3}}},
        lambda meta: meta | {"config": meta["config"] | {"inference": 3}},
        lambda meta: without(meta, "data"),
        lambda meta: meta | {"data": ["part"]},
        lambda meta: meta | {"data": {"categories": None}},
        lambda meta: meta | {"data": {"categories": [3]}},
        lambda meta: without(meta, "thresholds"),
        lambda meta: meta | {"thresholds": "none"},
        lambda meta: meta | {"thresholds": meta["thresholds"] | {"image": math.nan}},
        lambda meta: meta | {"thresholds": meta["thresholds"] | {"pixel": "high"}},
        lambda meta: meta | {"thresholds": meta["thresholds"] | {"calibration": {"count": 3}}},
    ],
)
def test_checkpoint_without_settings_or_thresholds_raises(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    model = tiny_model(1.0, [0.1, 0.2])
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.detector, change(dict(model.meta)), model.backbone)
    with pytest.raises(UserError, match=r"model\.safetensors must state settings and thresholds"):
        Model.load(path)
    model.save(path)
    assert Model.load(path).thresholds == model.thresholds


def test_scores_that_are_not_finite_raise() -> None:
    model = overflowing_model()
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    assert model.score(black).score == 0
    for images in ([white], [white, black]):
        with pytest.raises(ScoreError, match="must be finite numbers; got NaN or infinity"):
            model.score_batch(images)


def test_models_and_predictions_are_hashable_and_compared_by_identity() -> None:
    model = tiny_model(1.0)
    first, second = (model.score(np.zeros((32, 32, 3), np.uint8)) for _ in range(2))
    assert second in [first, second] and first != second
    assert len({first, second, first}) == 2 and {model: 1}[model] == 1


def test_representations_are_short() -> None:
    """In a console or notebook: no arrays, no modules, no metadata."""
    model = tiny_model(1.0, normal_scores=np.linspace(0, 1, 5000).tolist())
    assert "image=1.0" in repr(model) and len(repr(model)) < 1500
    prediction = model.score(np.zeros((32, 32, 3), np.uint8))
    assert "verdict=" in repr(prediction) and len(repr(prediction)) < 200
