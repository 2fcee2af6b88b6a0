"""Two processes that share every batch train like a single process, and bit for bit like each
other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_set import tiny_recipe
from two_processes import in_two_processes

from vqlab.config import merge, validate
from vqlab.data import DataSettings, load_dataset
from vqlab.detectors import detector_class
from vqlab.features import Backbone, FeatureSet, FeatureSettings
from vqlab.nn import distributed
from vqlab.training import SharedTrainer, Trainer, TrainingSettings, seed_everything

Tree = dict[str, Any]
UNEVEN = {"batch_size": 5, "epochs": 3, "learning_rate": 0.003}
"""Of 11 images: batches shared 3 and 2, and a last one of a single image."""
FLOW = {
    "name": "vqflow",
    "positions": 8,
    "concept": {"codebook_size": 3, "dim": 8, "restart": 0.5, "decay": 0.8},
    "pattern": {"kind": "per_concept", "codebook_size": 8, "dim": 8, "coverage": 20}
    | {"restart": 0.5, "decay": 0.8},
    "flow": {"blocks": [2], "hidden": 8, "condition": 8, "places": 9},
}
PAPER = {
    "whitening": "none",
    "concept": {"encoder": "mlp"},
    "pattern": {"kind": "residual", "encoder": "mlp"},
    "flow": {"kernel": 3, "fusion": True},
}


def recipes(root: Path) -> dict[str, Tree]:
    """Recipes that use every source of randomness: crops, noise, positions, initial and restarted
    codes."""
    vqvae = tiny_recipe(root, **UNEVEN, ema=0.5, clip=0.05)
    codes = {"crop": 16, "restart": 0.5, "decay": 0.8}
    flow = tiny_recipe(root, **UNEVEN | {"learning_rate": 0.01}) | {
        "features": {"backbone": "filters"},
        "detector": FLOW,
    }
    full = {
        "training": {"drop_last": True, "learning_rate": 0.003}
    }  # batch norm requires more than one image per batch
    return {
        "vqvae": merge(vqvae, {"detector": codes}),
        "unseen": merge(flow, {"training": {"unseen_below": 100}}),
        "vqflow": flow,
        "paper": merge(merge(flow, {"detector": PAPER}), full),
    }


def trained(kind: type[Trainer], tree: Tree) -> dict[str, Any]:
    """Return the final state of a training."""
    settings = dict(tree["detector"])
    detector = detector_class(settings.pop("name"))
    data = validate(DataSettings, tree["data"], "data.")
    seed_everything(0)
    features = validate(FeatureSettings, tree.get("features", {}), "features.")
    backbone = Backbone(features, data.image_size)
    built = detector(validate(detector.Config, settings, "detector."), backbone.spec)
    training = validate(TrainingSettings, tree["training"], "training.")
    images = load_dataset(data).train
    trainer = kind(built, FeatureSet(images, backbone, torch.device("cpu")), training)
    epochs = []
    trainer.fit(lambda epoch, metrics: epochs.append(epoch))
    return trainer.state() | {"reported_epochs": epochs}


def train_shared(root: Path, names: tuple[str, ...]) -> dict[str, Any]:
    with distributed.process_group():
        return {name: trained(SharedTrainer, recipes(root)[name]) for name in names}


@pytest.fixture(scope="module")
def results(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    return in_two_processes(train_shared, folder, root, ("vqvae", "vqflow", "unseen"))


def assert_equivalent(
    first: dict[str, Any], second: dict[str, Any], single: dict[str, Any]
) -> None:
    """Assert equal bits on both ranks, and metrics close to those of a single process; each metric
    depends on all weights and gradients."""
    assert (
        single["reported_epochs"] == first["reported_epochs"] == [1, 2, 3]
        and second["reported_epochs"] == []
    )
    assert first["history"] == second["history"]
    for key, tensor in first["detector"].items():
        assert torch.equal(tensor, second["detector"][key]), key
    for metrics, expected in zip(first["history"], single["history"], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-4)
    losses = [metrics.get("train/nll", metrics["train/loss"]) for metrics in first["history"]]
    assert losses[-1] < losses[0]


def test_vqvae_on_two_ranks_equals_a_single_process(
    root: Path, results: list[dict[str, Any]]
) -> None:
    first, second = (rank["vqvae"] for rank in results)
    single = trained(Trainer, recipes(root)["vqvae"])
    assert_equivalent(first, second, single)
    for key, tensor in single["detector"].items():
        torch.testing.assert_close(first["detector"][key], tensor, rtol=1e-3, atol=1e-4, msg=key)


def test_vqflow_on_two_ranks_equals_a_single_process(
    root: Path, results: list[dict[str, Any]]
) -> None:
    """Weights are not compared: where a gradient is rounding noise (a freshly initialised actnorm),
    Adam still takes a full step."""
    first, second = (rank["vqflow"] for rank in results)
    assert_equivalent(first, second, trained(Trainer, recipes(root)["vqflow"]))


def test_loss_of_unseen_images_is_that_of_a_single_process(
    root: Path, results: list[dict[str, Any]]
) -> None:
    first, second = (rank["unseen"] for rank in results)
    assert "train/unseen_nll" in first["history"][0]
    assert_equivalent(first, second, trained(Trainer, recipes(root)["unseen"]))


@pytest.mark.slow
def test_published_vqflow_on_two_ranks_equals_a_single_process(root: Path, tmp_path: Path) -> None:
    """Includes batch norm, convolutions and the fusion flow."""
    results = in_two_processes(train_shared, tmp_path, root, ("paper",))
    first, second = (rank["paper"] for rank in results)
    assert_equivalent(first, second, trained(Trainer, recipes(root)["paper"]))
