"""The two scores that VQ-Flow was published with (arXiv 2409.00942): places of one image compared
with each other, so that how likely the image is as a whole is lost."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vqlab.types import Scores

TOP = 0.03
"""Share of the highest pixels whose mean is the published image score."""


def published_map(levels: Tensor, kind: Literal["add", "mul"]) -> Tensor:
    """Map (B, H, W) of −log p of L levels (L, B, H, W): their likelihoods' sum or product, each
    over the largest in its image, below the image's best."""
    best = levels.amin((2, 3), keepdim=True)
    if kind == "add":
        total = torch.exp(best - levels).sum(0)
        return total.amax((1, 2), keepdim=True) - total
    total = levels.sum(0)
    return 1 - torch.exp(total.amin((1, 2), keepdim=True) - total)


def published_scores(levels: Tensor, kind: Literal["add", "mul"]) -> Scores:
    """The map, and as the image score the mean of its highest 3 %."""
    maps = published_map(levels, kind)
    flat = maps.flatten(1)
    top = flat.topk(max(1, int(TOP * flat.shape[1])), sorted=False).values
    return Scores(maps, top.mean(1))
