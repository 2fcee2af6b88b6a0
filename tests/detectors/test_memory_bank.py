"""The memory bank: scores equal a manual calculation, and properties of the bank."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vqlab.config import validate
from vqlab.detectors.memory_bank import MemoryBank, MemoryBankSettings
from vqlab.metrics import image_metrics
from vqlab.metrics.summary import pixel_metrics
from vqlab.nn.patches import patch_features, to_rows
from vqlab.nn.smoothing import smooth
from vqlab.types import InputSpec, Sample, UserError

SPEC = InputSpec(channels=(4, 6), sizes=((8, 8), (4, 4)), image_size=(32, 32))


def sample(count: int, seed: int) -> Sample:
    draw = torch.Generator().manual_seed(seed)
    levels = (
        torch.randn(count, 4, 8, 8, generator=draw),
        torch.randn(count, 6, 4, 4, generator=draw),
    )
    return Sample(levels[0], levels)


def batches(sample: Sample, size: int) -> list[Sample]:
    levels = zip(*(level.split(size) for level in sample.pyramid), strict=True)
    return [Sample(level, (level, *remaining)) for level, *remaining in levels]


def filled(seed: int = 0, **settings: Any) -> MemoryBank:
    torch.manual_seed(seed)
    detector = MemoryBank(validate(MemoryBankSettings, settings), SPEC)
    detector.prepare(batches(sample(12, 1), 5))
    return detector


def distances(sample: Sample, bank: Tensor) -> Tensor:
    """Return distances (B, h, w, bank_size) by direct computation."""
    patches = patch_features(sample.pyramid).movedim(1, -1)
    return (patches[..., None, :] - bank).square().sum(-1).sqrt()


def test_map_is_the_distance_to_the_nearest_vector_of_the_bank() -> None:
    detector = filled(bank_size=60, scoring={"smoothing": 0.05})
    image = sample(3, 2)
    nearest = distances(image, detector.bank).amin(-1)
    full = torch.nn.functional.interpolate(nearest[:, None], (32, 32), mode="bilinear")
    scores = detector.score(image)
    torch.testing.assert_close(scores.anomaly_map, smooth(full[:, 0], 0.05 * 32))
    torch.testing.assert_close(scores.image_score, scores.anomaly_map.amax((1, 2)))
    torch.testing.assert_close(detector.loss(image)["loss"], nearest.mean())


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("max", [0.91620, 1.23978, 0.97327]), ("reweighted", [0.84041, 1.17065, 0.90962])],
)
def test_golden_scores(kind: str, expected: list[float]) -> None:
    """A change in these values changes users' scores: add it to the CHANGELOG."""
    scores = filled(bank_size=60, scoring={"image_score": kind}).score(sample(3, 2))
    assert scores.image_score.tolist() == pytest.approx(expected, rel=1e-4)
    assert float(scores.anomaly_map.mean()) == pytest.approx(0.72936, rel=1e-4)


def test_bank_consists_of_training_patches_and_covers_them() -> None:
    detector = filled(bank_size=60)
    patches = to_rows(patch_features(sample(12, 1).pyramid))
    to_patches = torch.cdist(detector.bank, patches)
    assert float(to_patches.amin(1).max()) < 1e-2  # half precision
    at_random = patches[torch.randperm(len(patches))[:60]]
    assert float(to_patches.amin(0).max()) < 0.95 * float(
        torch.cdist(at_random, patches).amin(0).max()
    )


def test_bank_of_all_patches_gives_zero_training_scores() -> None:
    detector = filled(bank_size=12 * 64)
    assert float(detector.score(sample(12, 1)).anomaly_map.max()) < 1e-2


@pytest.mark.parametrize("settings", [{"bank_size": 1000}, {"bank_size": 90, "patches": 70}])
def test_fewer_patches_than_the_bank_size(settings: dict[str, int]) -> None:
    detector = filled(**settings)
    assert detector.bank.shape == (settings["bank_size"], 10)
    most = min(settings.get("patches", 12 * 64), 12 * 64)
    assert len(detector.bank.unique(dim=0)) == most
    assert detector.bank.abs().sum(1).all()  # all rows are filled


def test_second_prepare_replaces_the_first() -> None:
    detector = filled(bank_size=40)
    detector.prepare([sample(4, 9)])
    patches = to_rows(patch_features(sample(4, 9).pyramid))
    assert float(torch.cdist(detector.bank, patches).amin(1).max()) < 1e-2


def test_reweighting_equals_the_published_equation() -> None:
    detector = filled(bank_size=50, scoring={"image_score": "reweighted", "neighbours": 4})
    image = sample(2, 3)
    far = distances(image, detector.bank).view(2, 64, 50)
    for each, score in zip(far, detector.score(image).image_score, strict=True):
        patch = each[int(each.amin(1).argmax())]
        nearest = detector.bank[int(patch.argmin())]
        near = (detector.bank - nearest).norm(dim=1).argsort()[:4]
        weight = 1 - patch.min().exp() / patch[near].exp().sum()
        torch.testing.assert_close(score, weight * patch.min())


def test_reweighting_of_distant_patches_does_not_overflow() -> None:
    detector = filled(bank_size=50, scoring={"image_score": "reweighted"})
    far = tuple(level * 1000 for level in sample(2, 3).pyramid)
    assert bool(detector.score(Sample(far[0], far)).image_score.isfinite().all())


def test_image_score_is_the_mean_of_the_highest_pixels() -> None:
    detector = filled(bank_size=50, scoring={"image_score": "top", "top": 0.01})
    scores = detector.score(sample(2, 3))
    highest = scores.anomaly_map.flatten(1).sort(descending=True).values[:, :10]
    torch.testing.assert_close(scores.image_score, highest.mean(1))


def test_panel_shows_similar_patches_in_similar_colours() -> None:
    detector = filled(bank_size=50)
    panel = detector.panels(detector.extract(sample(2, 3)))["nearest in bank"]
    assert panel.shape == (2, 3, 32, 32) and 0 <= float(panel.min()) <= float(panel.max()) <= 1
    assert torch.equal(panel, detector.panels(detector.extract(sample(2, 3)))["nearest in bank"])
    cells = panel.view(2, 3, 8, 4, 8, 4)
    assert torch.equal(cells.amax((3, 5)), cells.amin((3, 5)))  # one colour per patch
    assert len(cells[..., 0, :, 0].flatten(2).unique(dim=2)[0].T) > 5


def test_even_neighbourhood_raises() -> None:
    with pytest.raises(UserError, match="neighbourhood: must be odd; got 4"):
        validate(MemoryBankSettings, {"neighbourhood": 4})


DATA, WEIGHTS = os.environ.get("VQLAB_REAL_DATA"), os.environ.get("VQLAB_WEIGHTS")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not (DATA and WEIGHTS), reason="VQLAB_REAL_DATA or VQLAB_WEIGHTS is not set")
def test_detects_defects_of_real_bottles() -> None:
    from vqlab.data import DataSettings, load_dataset
    from vqlab.features import Backbone, FeatureSet, FeatureSettings

    weights = Path(str(WEIGHTS)) / "resnet18_layer1to3.pth"
    settings = {"backbone": "resnet18", "weights": str(weights), "cache": False}
    backbone = Backbone(validate(FeatureSettings, settings), 256)
    splits = load_dataset(DataSettings(root=Path(str(DATA)) / "MVTec", categories="bottle"))
    torch.manual_seed(0)
    config = validate(MemoryBankSettings, {"bank_size": 1000, "patches": 60_000})
    detector = MemoryBank(config, backbone.spec)
    detector.prepare(FeatureSet(splits.train, backbone))
    maps, masks, scores, labels = [], [], [], []
    for batch, images in FeatureSet(splits.test, backbone).with_batches():
        result = detector.score(images)
        maps += list(result.anomaly_map.numpy())
        masks += list(batch.masks.numpy())
        scores += result.image_score.tolist()
        labels += batch.labels.tolist()
    assert image_metrics(scores, labels)["image_auroc"] > 0.99
    assert pixel_metrics(maps, masks)["pixel_auroc"] > 0.975
