"""PaDiM, compared with a NumPy implementation for each position."""

from __future__ import annotations

import numpy as np
import torch

from vqlab.config import validate
from vqlab.detectors.padim import Padim, PadimSettings
from vqlab.nn.patches import patch_features
from vqlab.nn.smoothing import smooth
from vqlab.types import InputSpec, Sample

SPEC = InputSpec(channels=(4, 6), sizes=((8, 8), (4, 4)), image_size=(32, 32))


def sample(count: int, seed: int) -> Sample:
    draw = torch.Generator().manual_seed(seed)
    levels = (
        5 + torch.randn(count, 4, 8, 8, generator=draw),
        torch.randn(count, 6, 4, 4, generator=draw) - 3,
    )
    return Sample(levels[0], levels)


def fitted(train: Sample, **settings: object) -> Padim:
    torch.manual_seed(0)
    detector = Padim(validate(PadimSettings, settings), SPEC)
    levels = zip(*(level.split(5) for level in train.pyramid), strict=True)
    detector.prepare(Sample(level, (level, *remaining)) for level, *remaining in levels)
    return detector


def test_distances_equal_those_of_a_gaussian_per_position() -> None:
    train, images = sample(13, 1), sample(3, 2)
    detector = fitted(train, dims=7, regularization=0.05, scoring={"smoothing": 0.05})
    channels = detector.channels.tolist()
    assert len(set(channels)) == 7 and max(channels) < 10
    normal, tested = (
        patch_features(s.pyramid, kernel=1)[:, channels].double().numpy() for s in (train, images)
    )
    expected = np.zeros((3, 8, 8))
    for row, column in np.ndindex(8, 8):
        covariance = np.cov(normal[:, :, row, column].T) + 0.05 * np.eye(7)
        deviations = tested[:, :, row, column] - normal[:, :, row, column].mean(0)
        inverse = np.linalg.inv(covariance)
        expected[:, row, column] = np.sqrt(
            np.einsum("bi,ij,bj->b", deviations, inverse, deviations)
        )
    (distances,) = detector.extract(images)
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-4)
    full = torch.nn.functional.interpolate(distances[:, None], (32, 32), mode="bilinear")[:, 0]
    scores = detector.score(images)
    torch.testing.assert_close(scores.anomaly_map, smooth(full, 0.05 * 32))
    torch.testing.assert_close(scores.image_score, scores.anomaly_map.amax((1, 2)))


def test_uses_all_channels_if_there_are_fewer() -> None:
    detector = fitted(sample(13, 1), dims=100)
    assert detector.channels.tolist() == list(range(10))


def test_single_training_image_gives_finite_scores() -> None:
    detector = fitted(sample(1, 1))
    assert detector.score(sample(2, 3)).anomaly_map.isfinite().all()
