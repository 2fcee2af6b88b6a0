"""Image scores of anomaly maps."""

from __future__ import annotations

import torch

from vqlab.nn.image_score import image_score


def test_image_scores_equal_manual_calculation() -> None:
    maps = torch.arange(20.0).view(2, 2, 5)
    assert image_score(maps, "max").tolist() == [9, 19]
    assert image_score(maps, "mean").tolist() == [4.5, 14.5]
    assert image_score(maps, "top", 0.2).tolist() == [8.5, 18.5]
    assert torch.equal(image_score(maps, "top", 1e-6), image_score(maps, "max"))
    assert torch.equal(image_score(maps, "top", 1.0), image_score(maps, "mean"))
