"""Normalization of image scores by concept: offsets are removed as far as chance does not explain
them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqlab.nn.image_normalization import ImageNormalization


def fitted(scores: Tensor, concept: Tensor, concepts: int) -> ImageNormalization:
    normalization = ImageNormalization(concepts)
    normalization.fit(scores, concept)
    return normalization


def random_scores(locations: list[float], images: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    concept = torch.arange(len(locations)).repeat_interleave(images)
    noise = 0.3 * torch.randn(len(concept), generator=draw)
    return torch.tensor(locations)[concept] + noise, concept


def test_offsets_between_products_are_removed() -> None:
    scores, concept = random_scores([1.0, 1.2, 3.5, 0.9], 20, seed=0)
    normalization = fitted(scores, concept, 5)
    new_scores, new_concept = random_scores([1.0, 1.2, 3.5, 0.9], 200, seed=1)
    normalized = normalization.normalize(new_scores, new_concept).view(4, 200)
    assert normalized.mean(1).abs().max() < 0.4
    assert normalized.std(1) == pytest.approx([1.0] * 4, abs=0.15)
    # a concept without images
    assert float(normalization.location[4]) == pytest.approx(float(scores.mean()))


def test_concepts_with_equal_locations_are_hardly_shifted() -> None:
    """The locations of 24 concepts with eight images each differ by chance only, so the mean of
    each concept is mostly noise. Averaged over 20 seeds."""
    shifts = []
    for seed in range(20):
        normalization = fitted(*random_scores([1.0] * 24, 8, seed), 24)
        shifts.append(float(normalization.location.std() / normalization.scatter))
    own_means = 1 / 8**0.5
    assert sum(shifts) / len(shifts) < own_means / 3
    assert sum(shift == 0 for shift in shifts) >= 5


def test_shrunken_location_equals_manual_calculation() -> None:
    scores = torch.tensor([0.0, 2.0, 10.0, 12.0])
    normalization = fitted(scores, torch.tensor([0, 0, 1, 1]), 2)
    within = 4 / 2
    between = (100 - within) / (4 - 8 / 4)
    share = 2 * between / (2 * between + within)
    assert normalization.location.tolist() == pytest.approx([6 - 5 * share, 6 + 5 * share])
    assert float(normalization.scatter) == pytest.approx(within**0.5)


@pytest.mark.parametrize(
    ("scores", "concept", "location", "scatter"),
    [
        ([3.0], [1], 3.0, 1.0),
        ([3.0, 3.0, 3.0], [0, 1, 1], 3.0, 1.0),
        ([1.0, 2.0, 3.0], [0, 0, 0], 2.0, 1.0),
        ([1.0, 5.0], [0, 1], 3.0, 2.0),  # one image per concept: the difference may be noise
    ],
)
def test_too_few_images_share_one_location(
    scores: list[float], concept: list[int], location: float, scatter: float
) -> None:
    normalization = fitted(torch.tensor(scores), torch.tensor(concept), 2)
    assert normalization.location.tolist() == pytest.approx([location] * 2)
    assert float(normalization.scatter) == pytest.approx(scatter)


def test_scores_are_unchanged_before_fitting() -> None:
    scores = torch.tensor([1.5, -2.0])
    assert torch.equal(ImageNormalization(3).normalize(scores, torch.tensor([0, 2])), scores)
