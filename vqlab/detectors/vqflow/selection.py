"""Select the training images that the normalisation of image scores is fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def evenly_by_concept(concepts: Sequence[Tensor], counts: Tensor) -> list[list[int]]:
    """Select evenly spaced images of each concept; return their places in each batch.

    concepts: of the images of each batch, (B,). counts (K,): maximum number of images per concept;
    fractions are rounded up.
    """
    if not concepts:
        return []
    images = torch.cat(list(concepts)).cpu()
    chosen = torch.zeros(len(images), dtype=torch.bool)
    for concept in torch.unique(images).tolist():
        members = (images == concept).nonzero()[:, 0]
        count = min(len(members), int(counts[concept].ceil().clamp_min(0)))
        steps = (torch.arange(count) + 0.5) * len(members) / max(count, 1)
        chosen[members[steps.long()]] = True
    batches = torch.split(chosen, [len(batch) for batch in concepts])
    return [batch.nonzero()[:, 0].tolist() for batch in batches]
