"""Image scores of anomaly maps."""

from __future__ import annotations

import torch

from vqlab.nn.image_score import image_score, total_variation
from vqlab.nn.smoothing import upsample


def test_image_scores_equal_manual_calculation() -> None:
    maps = torch.arange(20.0).view(2, 2, 5)
    assert image_score(maps, "max").tolist() == [9, 19]
    assert image_score(maps, "mean").tolist() == [4.5, 14.5]
    assert image_score(maps, "top", 0.2).tolist() == [8.5, 18.5]
    assert torch.equal(image_score(maps, "top", 1e-6), image_score(maps, "max"))
    assert torch.equal(image_score(maps, "top", 1.0), image_score(maps, "mean"))


def test_total_variation_of_an_edge_and_of_regions() -> None:
    edge = torch.zeros(1, 64, 64)
    edge[:, :, 20:] = 3.0
    assert total_variation(edge).tolist() == [3.0]
    assert total_variation(edge.mT).tolist() == [3.0]
    assert total_variation(edge[:, :16].repeat_interleave(4, 1)).tolist() == [3.0]
    regions = torch.zeros(3, 64, 64)
    regions[1:, 8:16, 8:16] = 1.0
    regions[2, 40:48, 8:16] = 1.0
    assert total_variation(regions).tolist() == [0.0, 0.5, 1.0]


def test_total_variation_hardly_depends_on_the_resolution() -> None:
    torch.manual_seed(0)
    maps = upsample(torch.randn(2, 8, 8), (64, 64), 1.0)
    larger = upsample(torch.nn.functional.avg_pool2d(maps, 2), (128, 128), 1.0)
    torch.testing.assert_close(total_variation(larger), total_variation(maps), rtol=0.1, atol=0)
