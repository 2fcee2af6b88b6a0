"""A model on tiles (`data.tiles`): training, calibration, evaluation, storage and prediction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vqlab.config import merge
from vqlab.data import load_dataset
from vqlab.evaluation import extract_images, score_extracted
from vqlab.export import export_model
from vqlab.model import Model
from vqlab.predict import predict_files
from vqlab.recipes import Folders
from vqlab.run import Outcome, Recording, evaluate_model, resolve, run, trained_key
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
SIZE = (72, 100)
DETECTORS: dict[str, dict[str, Any]] = {
    "mean_image": {"detector": {"name": "mean_image"}, "training": {"epochs": 0}},
    "memory_bank": {
        "detector": {"name": "memory_bank", "bank_size": 50},
        "features": {"backbone": "filters"},
        "training": {"epochs": 0},
    },
    "vqvae": {
        "detector": {
            "name": "vqvae", "hidden": 4, "dim": 8, "warmup": 1, "codebook_size": 16,
            "scoring": {"context_steps": 3},
        },
        "training": {"epochs": 1},
    },
}  # fmt: skip
Train = Callable[..., Outcome]


@pytest.fixture(scope="module")
def panels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of stripes, 72 x 100 pixels, with a bright square of 5 pixels as the defect."""
    root, rng = tmp_path_factory.mktemp("panels"), np.random.default_rng(0)
    for split, kind, count in (("train", "good", 8), ("test", "good", 3), ("test", "dot", 3)):
        for number in range(count):
            stripes = 100 + 40 * (np.arange(SIZE[1]) // 4 % 2) + np.zeros(SIZE)
            grey, mask = stripes + rng.normal(0, 5, SIZE), np.zeros(SIZE, np.uint8)
            if kind == "dot":
                top, left = rng.integers(0, 67), rng.integers(0, 95)
                mask[top : top + 5, left : left + 5] = 255
                masks = root / f"panel/ground_truth/dot/{number:03d}_mask.png"
                masks.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(masks)
            grey = np.where(mask, 250, grey).clip(0, 255).astype(np.uint8)
            path = root / f"panel/{split}/{kind}/{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey).convert("RGB").save(path)
    return root


@pytest.fixture
def train(panels: Path, store: Tracker, tmp_path: Path) -> Train:
    def make(name: str, **data: Any) -> Outcome:
        base = {
            "data": {"root": str(panels), "categories": ["panel"], "image_size": 32,
                     "tiles": {"size": 32}, **data},
            "training": {"device": "cpu", "threads": 1},
            "evaluation": {"resamples": 0},
        }  # fmt: skip
        return run(
            resolve(merge(base, DETECTORS[name])), store, Recording(results=tmp_path / "results")
        )

    return make


@pytest.mark.parametrize("name", DETECTORS)
def test_scores_of_a_set_a_file_and_a_checkpoint_agree(name: str, train: Train) -> None:
    outcome = train(name)
    assert outcome.test is not None and {"pixel_auroc", "aupro"} <= set(outcome.test.mean)
    assert set(outcome.other_reports) >= {"mean_image"} - {name}
    images = load_dataset(resolve(outcome.model.meta["config"]).data).test
    scored = outcome.model.score_set(images)
    assert scored.records == images.records and {m.shape for m in scored.maps} == {SIZE}
    assert [m.any() for m in scored.masks] == [True] * 3 + [False] * 3
    loaded = Model.load(outcome.checkpoint, "cpu")
    assert loaded.data.tiles.size == 32
    for index, record in enumerate(images.records):
        prediction = loaded.score(record.path)
        assert prediction.score == scored.image_scores[index]
        np.testing.assert_array_equal(prediction.anomaly_map, scored.maps[index])
        assert prediction.panels == {} and prediction.picture().ndim == 3
    tiles = images.tiled()
    highest = [-np.inf] * len(images)
    for index in range(len(tiles)):
        batch = tiles.batch([index])
        with torch.inference_mode():
            from vqlab.types import Sample

            image_score = loaded.detector.score(
                Sample(batch.images, loaded.backbone(batch.images))
            ).image_score
        place = images.records.index(tiles.records[index])
        highest[place] = max(highest[place], float(image_score))
    np.testing.assert_allclose(scored.image_scores, highest, rtol=1e-6)


def test_small_defects_are_detected_at_native_resolution(train: Train) -> None:
    tiled = train("memory_bank")
    assert tiled.test is not None
    assert tiled.test.mean["image_auroc"] == 1.0 and tiled.test.mean["pixel_auroc"] > 0.95


def test_rescoring_extracted_tiles_gives_the_same_scores(train: Train, tmp_path: Path) -> None:
    """As in the search of scoring settings of a sweep; with pixels outside the inspected area."""
    roi = np.zeros(SIZE, np.uint8)
    roi[20:60, 3:30] = 255
    Image.fromarray(roi).save(tmp_path / "roi.png")
    model = train("memory_bank", roi=str(tmp_path / "roi.png")).model
    images = load_dataset(model.data).validation
    scored = model.score_set(images)
    rescored = score_extracted(
        model.detector, extract_images(model.detector, model.features(images))
    )
    np.testing.assert_array_equal(rescored.image_scores, scored.image_scores)
    for first, second, inspected in zip(
        rescored.maps, scored.maps, scored.inspected or [], strict=True
    ):
        np.testing.assert_array_equal(first, second)
        assert (first[~inspected] == first[inspected].min()).all()
    assert scored.inspected is not None and (scored.inspected[0] == (roi > 0)).all()


def test_prediction_evaluation_and_export(train: Train, store: Tracker, tmp_path: Path) -> None:
    outcome = train("memory_bank")
    model = outcome.model
    small = tmp_path / "images/small.png"
    small.parent.mkdir()
    Image.fromarray(np.zeros((20, 90, 3), np.uint8)).save(small)
    files = [model.data.root / "panel/test/dot/000.png", small] if model.data.root else []
    summary = predict_files(model, files, tmp_path / "predicted", pictures="all")
    text = (tmp_path / "predicted/scores.csv").read_text()
    assert "reject" in text and "unreadable" in text and "smaller than a tile" in text
    assert summary is not None
    report, _ = evaluate_model(model, Folders(), store, tmp_path / "results")
    assert outcome.test is not None and report.mean == outcome.test.mean
    with pytest.raises(UserError, match="must score images as a whole; this one cuts them into"):
        export_model(model, "onnx", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_keys_of_models_without_tiles_are_unchanged(panels: Path) -> None:
    tree = {"data": {"root": str(panels), "categories": ["panel"], "image_size": 32},
            "detector": "mean_image"}  # fmt: skip
    plain = trained_key(resolve(tree), "abc")
    off = trained_key(resolve(merge(tree, {"data": {"tiles": {"overlap": 0.5}}})), "abc")
    on = trained_key(resolve(merge(tree, {"data": {"tiles": {"size": 32}}})), "abc")
    assert plain == off != on


def test_key_depends_on_the_images_of_the_training_steps(panels: Path) -> None:
    tree = {"data": {"root": str(panels), "categories": ["panel"], "image_size": 32},
            "detector": "mean_image"}  # fmt: skip
    keys = {
        trained_key(resolve(merge(tree, {"training": training})), "abc")
        for training in ({}, {"unseen_below": 0}, {"unseen_below": 400})
    }
    assert len(keys) == 2


def test_key_of_the_last_epoch_is_independent_of_validation_images(panels: Path) -> None:
    tree = {"data": {"root": str(panels), "categories": ["panel"], "image_size": 32},
            "detector": "mean_image"}  # fmt: skip
    earlier = merge(tree, {"data": {"synthetic_defects": 2, "validation": {"kinds": "generic"}}})
    assert trained_key(resolve(tree), "abc") == trained_key(resolve(earlier), "abc")
    selected = {"training": {"select": "best_on_validation", "validate_every": 1}}
    keys = [trained_key(resolve(merge(each, selected)), "abc") for each in (tree, earlier)]
    assert keys[0] != keys[1]
