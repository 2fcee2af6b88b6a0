"""Where image scores lie by concept: as much of it as chance cannot explain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqlab.nn.image_normalization import ImageNormalization


def fitted(scores: Tensor, concept: Tensor, concepts: int) -> ImageNormalization:
    level = ImageNormalization(concepts)
    level.fit(scores, concept)
    return level


def random_scores(locations: list[float], images: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    concept = torch.arange(len(locations)).repeat_interleave(images)
    noise = 0.3 * torch.randn(len(concept), generator=draw)
    return torch.tensor(locations)[concept] + noise, concept


def test_products_that_lie_apart_are_brought_together() -> None:
    scores, concept = random_scores([1.0, 1.2, 3.5, 0.9], 20, seed=0)
    level = fitted(scores, concept, 5)
    new, of = random_scores([1.0, 1.2, 3.5, 0.9], 200, seed=1)
    measured = level.normalize(new, of).view(4, 200)
    assert measured.mean(1).abs().max() < 0.4
    assert measured.std(1) == pytest.approx([1.0] * 4, abs=0.15)
    assert float(level.location[4]) == pytest.approx(float(scores.mean()))  # never seen


def test_concepts_that_lie_alike_keep_the_order_of_images() -> None:
    """Eight images of each of 24 concepts that differ by chance alone: the own mean of a concept
    would be noise. Judged over several draws, for chance differs."""
    moved = []
    for seed in range(20):
        level = fitted(*random_scores([1.0] * 24, 8, seed), 24)
        moved.append(float(level.location.std() / level.scatter))
    own_means = 1 / 8**0.5
    assert sum(moved) / len(moved) < own_means / 3
    assert sum(distance == 0 for distance in moved) >= 5


def test_what_is_kept_of_a_distance_by_hand() -> None:
    scores = torch.tensor([0.0, 2.0, 10.0, 12.0])
    level = fitted(scores, torch.tensor([0, 0, 1, 1]), 2)
    within = 4 / 2
    between = (100 - within) / (4 - 8 / 4)
    share = 2 * between / (2 * between + within)
    assert level.location.tolist() == pytest.approx([6 - 5 * share, 6 + 5 * share])
    assert float(level.scatter) == pytest.approx(within**0.5)


@pytest.mark.parametrize(
    ("scores", "concept", "location", "scatter"),
    [
        ([3.0], [1], 3.0, 1.0),
        ([3.0, 3.0, 3.0], [0, 1, 1], 3.0, 1.0),
        ([1.0, 2.0, 3.0], [0, 0, 0], 2.0, 1.0),
        ([1.0, 5.0], [0, 1], 3.0, 2.0),  # an image each: all of it may be scatter
    ],
)
def test_too_little_to_tell_concepts_apart(
    scores: list[float], concept: list[int], location: float, scatter: float
) -> None:
    level = fitted(torch.tensor(scores), torch.tensor(concept), 2)
    assert level.location.tolist() == pytest.approx([location] * 2)
    assert float(level.scatter) == pytest.approx(scatter)


def test_scores_stay_as_they_are_until_fitted() -> None:
    scores = torch.tensor([1.5, -2.0])
    assert torch.equal(ImageNormalization(3).normalize(scores, torch.tensor([0, 2])), scores)
