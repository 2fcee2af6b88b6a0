"""The two published scores of VQ-Flow (arXiv 2409.00942).

They compare the positions of one image with each other and lose the likelihood of the image as a
whole.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vqlab.types import Scores

TOP = 0.03
"""Fraction of the highest pixels whose mean is the image score."""


def published_map(levels: Tensor, kind: Literal["add", "mul"]) -> Tensor:
    """Return anomaly maps (B, H, W) from −log p of L levels (L, B, H, W).

    The maps are the sum or product of the likelihoods, relative to the maximum of each image.
    """
    best = levels.amin((2, 3), keepdim=True)
    if kind == "add":
        total = torch.exp(best - levels).sum(0)
        return total.amax((1, 2), keepdim=True) - total
    total = levels.sum(0)
    return 1 - torch.exp(total.amin((1, 2), keepdim=True) - total)


def published_scores(levels: Tensor, kind: Literal["add", "mul"]) -> Scores:
    """Return the maps, and as image scores the means of their highest 3 %."""
    maps = published_map(levels, kind)
    flat = maps.flatten(1)
    top = flat.topk(max(1, int(TOP * flat.shape[1])), sorted=False).values
    return Scores(maps, top.mean(1))
