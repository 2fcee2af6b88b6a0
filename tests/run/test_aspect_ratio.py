"""Runs with `data.resize=aspect`: each network input has the aspect ratio of its image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folders_of_shapes import tall_and_square

from vqlab.config import merge
from vqlab.data import DataSettings, input_shape, load_dataset
from vqlab.evaluation import extract_images, score_extracted
from vqlab.features import Backbone, FeatureSet, FeatureSettings
from vqlab.model import Model
from vqlab.pixels.aspect import unusual_shape
from vqlab.run import Recording, resolve, run
from vqlab.run.calibration import make_trainer
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
VQFLOW = {
    "features": {"backbone": "filters"},
    "detector": {
        "name": "vqflow",
        "concept": {"codebook_size": 3, "dim": 4},
        "pattern": {"codebook_size": 8, "coverage": 60},
        "flow": {"blocks": [1], "hidden": 8, "places": 16},
        "positions": 8,
        "dims": 6,
    },
    "training": {"epochs": 1, "steps_per_epoch": 4, "batch_size": 6, "device": "cpu"},
    "evaluation": {"resamples": 0},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Categories `tall` (96 x 32 pixels) and `square`, as noise."""
    return tall_and_square(tmp_path_factory.mktemp("shapes"))


def tree(root: Path, **data: Any) -> dict[str, Any]:
    section = {"root": str(root), "categories": "all", "joint": True, "image_size": 64}
    return merge(VQFLOW, {"data": {**section, "resize": "aspect", **data}})


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((256, 256), 256, (256, 256)),
        ((1000, 1000), 100, (100, 100)),
        ((480, 192), 256, (416, 160)),
        ((192, 480), 256, (160, 416)),
        ((288, 384), 256, (224, 288)),
        ((3000, 10), 64, (1120, 32)),
    ],
)
def test_input_has_the_aspect_ratio_of_its_image(
    size: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    settings = DataSettings(image_size=side, resize="aspect")
    assert input_shape(size, settings) == expected
    assert input_shape(size, DataSettings(image_size=side)) == (side, side)


def test_batches_contain_images_of_one_shape(root: Path) -> None:
    images = load_dataset(resolve(tree(root)).data).test
    shapes = [images.input_shape(index) for index in range(len(images))]
    assert set(shapes) == {(96, 32), (64, 64)}
    batches = list(images.batches(5))
    assert [record for batch in batches for record in batch.records] == list(images.records)
    assert [tuple(b.images.shape[2:]) for b in batches for _ in b.records] == shapes
    for batch in batches:
        assert batch.masks.shape[1:] == batch.images.shape[2:]


def test_training_batches_are_grouped_by_shape(root: Path) -> None:
    images = load_dataset(resolve(tree(root)).data).train
    backbone = Backbone(FeatureSettings(backbone="filters"), 64)
    features = FeatureSet(images, backbone)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1)).tolist()
    batches = list(features.grouped(order, 6))
    assert [sum(map(len, parts)) for parts in batches] == [6] * (len(order) // 6) + (
        [len(order) % 6] if len(order) % 6 else []
    )
    assert all(len(parts) <= 2 for parts in batches)
    cached = {index: features.in_order([index], 1) for index in order}
    for parts, start in zip(batches, range(0, len(order), 6), strict=True):
        levels = [level for part in parts for level in part.pyramid[0]]
        expected = [next(iter(cached[i])).pyramid[0][0] for i in order[start : start + 6]]
        keys = [sorted(float(level.sum()) for level in group) for group in (levels, expected)]
        assert keys[0] == keys[1]


@pytest.mark.parametrize("cache", [True, False])
def test_features_are_independent_of_the_cache(root: Path, cache: bool) -> None:
    images = load_dataset(resolve(tree(root)).data).test
    settings = FeatureSettings(backbone="filters", cache=cache)
    features = FeatureSet(images, Backbone(settings, 64), batch_size=4)
    backbone = Backbone(settings, 64)
    index = 0
    for batch, sample in features.with_batches():
        direct = backbone(batch.images)
        for level, expected in zip(sample.pyramid, direct, strict=True):
            assert torch.equal(level, expected)
        index += len(batch)
    assert index == len(images)


@pytest.fixture(scope="module")
def model(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Any]:
    """A joint vqflow of both categories, and its splits."""
    store = tmp_path_factory.mktemp("store")
    config = resolve(tree(root))
    outcome = run(config, Tracker.open(store), Recording(results=store / "results"))
    return outcome.model, load_dataset(config.data)


def test_joint_model_scores_images_of_all_shapes(model: tuple[Model, Any]) -> None:
    trained, splits = model
    scored = trained.score_set(splits.test)
    assert {values.shape for values in scored.maps} == {(96, 32), (64, 64)}
    images = [splits.test.original(index) for index in range(len(splits.test))]
    singles = [trained.score(image) for image in images]
    assert [single.score for single in singles] == scored.image_scores.tolist()
    batch_predictions = trained.score_batch(images)
    np.testing.assert_allclose(
        [each.score for each in batch_predictions], scored.image_scores, rtol=1e-5, atol=1e-6
    )
    for image, prediction in zip(images, batch_predictions, strict=True):
        assert prediction.anomaly_map.shape == image.shape[:2]
        for panel in prediction.panels.values():
            assert panel.ndim in (2, 3)
    assert {panel.shape for single in singles for panel in single.panels.values()} == {
        (12, 4), (8, 8)
    }  # fmt: skip


def test_shapes_of_the_training_images_are_stored(model: tuple[Model, Any], tmp_path: Path) -> None:
    trained, splits = model
    stored = trained.meta["data"]["aspect_ratios"]
    assert stored == {"square": [1, 1], "tall": [0.33333, 0.33333]}
    assert trained.aspect_ratios == (0.33333, 1) and trained.for_category("square").area is None
    trained.save(tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors", "cpu")
    tall = next(i for i, each in enumerate(splits.test.records) if each.category == "tall")
    image = splits.test.original(tall)
    assert not loaded.score(image).note and not loaded.for_category("tall").score(image).note
    note = loaded.for_category("square").score(image).note
    assert note.startswith("it is 48x144 pixels, an aspect ratio of 0.333, but training images hav")
    data = {**trained.meta["data"], "aspect_ratios": {"square": 1}}
    replace(trained, meta={**trained.meta, "data": data}).save(tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match="bad.safetensors must state settings"):
        Model.load(tmp_path / "bad.safetensors", "cpu")


@pytest.mark.parametrize(
    ("size", "ratios", "noted"),
    [
        ((100, 149), (1, 1), False),
        ((100, 150), (1, 1), True),
        ((149, 100), (1, 1), False),
        ((150, 100), (1, 1), True),
        ((100, 250), (0.5, 2), False),
        ((100, 301), (0.5, 2), True),
        ((301, 100), (0.5, 2), True),
        ((9, 900), None, False),
    ],
)
def test_aspect_ratios_within_the_range_of_training_are_usual(
    size: tuple[int, int], ratios: tuple[float, float] | None, noted: bool
) -> None:
    assert bool(unusual_shape(size, ratios)) == noted


def test_scores_of_extracted_images_equal_those_of_the_set(model: tuple[Model, Any]) -> None:
    trained, splits = model
    scored = trained.score_set(splits.test)
    rescored = score_extracted(
        trained.detector, extract_images(trained.detector, trained.features(splits.test))
    )
    assert rescored.image_scores.tolist() == scored.image_scores.tolist()


@pytest.mark.parametrize("base", ["selected", "mixture"])
def test_training_is_reproducible(root: Path, base: str) -> None:
    config = resolve(merge(tree(root), {"detector": {"base": base}}))
    states = []
    for _ in range(2):
        trainer = make_trainer(config, load_dataset(config.data), torch.device("cpu"))
        trainer.fit(lambda epoch, metrics: None)
        states.append(trainer.detector.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_detector_with_fixed_input_shape_raises(root: Path) -> None:
    with pytest.raises(UserError, match="vqvae needs images of one shape; got aspect"):
        resolve({**tree(root), "detector": {"name": "vqvae"}})
