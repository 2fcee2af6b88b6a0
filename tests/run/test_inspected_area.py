"""Pixels outside the inspected area do not affect scores, verdicts, thresholds or metrics."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from vqlab.config import merge
from vqlab.data import find_regions, load_dataset
from vqlab.evaluation import evaluate
from vqlab.model import Model
from vqlab.recipes import Folders
from vqlab.run import Outcome, Recording, evaluate_model, resolve, run
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")
INSPECTED = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 24
"""A disc in images of 64 x 64."""
DETECTORS: dict[str, dict[str, Any]] = {
    "mean_image": {"detector": {"name": "mean_image"}, "training": {"epochs": 0}},
    "memory_bank": {
        "detector": {"name": "memory_bank", "bank_size": 50},
        "features": {"backbone": "filters"},
        "training": {"epochs": 0},
    },
    "vqvae": {},
}


def disturbed(image: Any, seed: int) -> Any:
    """Add noise and bright light outside the disc."""
    noise = np.random.default_rng(seed).integers(150, 256, image.shape, np.uint8)
    return np.where(INSPECTED[..., None], image, noise)


@pytest.fixture(scope="module")
def roots(small_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The dataset, a disturbed copy, and the file of the area."""
    folder = tmp_path_factory.mktemp("area")
    copy = folder / "disturbed"
    shutil.copytree(small_root / "cable", copy / "cable")
    for number, file in enumerate(sorted(copy.glob("cable/t*/*/*.png"))):
        Image.fromarray(disturbed(np.asarray(Image.open(file)), number)).save(file)
    Image.fromarray(INSPECTED.astype(np.uint8) * 255).save(folder / "roi.png")
    return small_root, copy, folder / "roi.png"


Train = Callable[..., Outcome]


@pytest.fixture
def train(small: dict[str, Any], store: Tracker, tmp_path: Path) -> Train:
    """Return a function that trains a detector on the dataset in a folder."""

    def make(name: str, root: Path, **data: str) -> Outcome:
        base = (
            small if name == "vqvae" else {**small, "detector": {}, "training": {"device": "cpu"}}
        )
        tree = merge(merge(base, DETECTORS[name]), {"data": {"root": str(root), **data}})
        return run(resolve(tree), store, Recording(results=tmp_path / "results"))

    return make


@pytest.mark.parametrize("name", DETECTORS)
def test_disturbance_outside_the_area_has_no_effect(
    name: str, train: Train, roots: tuple[Path, Path, Path]
) -> None:
    clean, bright, roi = roots
    first = train(name, clean, roi=str(roi))
    second = train(name, bright, roi=str(roi))
    assert asdict(first.model.thresholds) == asdict(second.model.thresholds)
    assert first.validation.mean == second.validation.mean
    assert first.test is not None and second.test is not None
    assert first.test.mean == second.test.mean and "aupro" in first.test.mean
    for file in sorted((clean / "cable/test").glob("*/*.png")):
        image = np.asarray(Image.open(file))
        expected, prediction = (
            first.model.score(pixels) for pixels in (image, disturbed(image, 9))
        )
        for key in ("score", "verdict", "p_value"):
            assert getattr(prediction, key) == getattr(expected, key)
        assert (prediction.anomaly_map == expected.anomaly_map).all()
        assert (prediction.mask == expected.mask).all()
        assert not expected.mask[~INSPECTED].any()
        assert prediction.regions() == expected.regions()
    without = train(name, clean)
    scores = [without.model.score(each).score for each in (image, disturbed(image, 9))]
    assert scores[0] != scores[1]


def test_images_share_the_mask_of_an_area(train: Train, roots: tuple[Path, Path, Path]) -> None:
    clean, _, roi = roots
    model = train("mean_image", clean, roi=str(roi)).model
    images = load_dataset(model.data.model_copy(update={"root": clean, "roi": roi})).test
    scored = model.predict_set(images).scored
    assert scored.inspected is not None and len(scored.inspected) == len(images) > 2
    assert len({id(mask) for mask in scored.inspected}) == 1
    assert model.area is not None
    assert (scored.inspected[0] == model.area.fitted((64, 64), model.data)).all()
    assert len({id(mask) for mask in scored.masks if not mask.any()}) == 1


def test_checkpoint_contains_its_area(
    train: Train, store: Tracker, roots: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    clean, _, roi = roots
    path = tmp_path / "roi.png"
    shutil.copyfile(roi, path)
    outcome = train("mean_image", clean, roi=str(path))
    path.unlink()
    model = Model.load(outcome.checkpoint, "cpu")
    assert model.area is not None and (model.area.mask == INSPECTED).all()
    image = next((clean / "cable/test/missing_cable").glob("*.png"))
    assert model.score(image).score == outcome.model.score(image).score
    report, _ = evaluate_model(model, Folders(None), store, tmp_path / "results")
    assert outcome.test is not None and report.mean == outcome.test.mean
    meta = {**model.meta, "data": {**model.meta["data"], "inspected": "nothing"}}
    replace(model, meta=meta).save(tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="damaged.safetensors cannot be used: the inspected area"):
        Model.load(tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="it is 40x64 pixels; the inspected area"):
        model.score(np.zeros((64, 40, 3), np.uint8))


def test_pixels_outside_do_not_count_in_metrics(
    train: Train, roots: tuple[Path, Path, Path]
) -> None:
    clean, _, roi = roots
    outcome = train("mean_image", clean, roi=str(roi))
    model = outcome.model
    splits = load_dataset(resolve(model.meta["config"]).data)
    scored = model.score_set(splits.test)
    assert scored.inspected is not None
    report = evaluate(scored, model.thresholds)
    counted = [i for i in range(len(scored)) if not scored.labels[i] or scored.masks[i].any()]
    values = np.concatenate([scored.pixels(i) for i in counted])
    truth = np.concatenate([scored.masks[i][scored.inspected[i]] for i in counted])
    expected = roc_auc_score(truth, values)
    assert report.mean["pixel_auroc"] == pytest.approx(expected, abs=1e-3)
    diluted = evaluate(replace(scored, inspected=None), model.thresholds)
    assert diluted.mean["pixel_auroc"] != pytest.approx(expected, abs=1e-3)
    flagged = values > model.thresholds.pixel
    assert report.mean["pixel_recall"] == pytest.approx((flagged & truth).sum() / truth.sum())
    normal = model.score_set(splits.held_out)
    share = np.concatenate([normal.pixels(i) for i in range(len(normal))]) > model.thresholds.pixel
    assert share.mean() <= 0.005
    for index, inspected in enumerate(scored.inspected):
        assert (scored.maps[index][~inspected] == scored.pixels(index).min()).all()
        assert not find_regions(scored.maps[index], scored.masks[index] & ~inspected)
