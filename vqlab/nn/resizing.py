"""Bilinear resizing of maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resized(maps: Tensor, target: Tensor) -> Tensor:
    """Return maps (N, C, h, w) at the size of the last two dimensions of `target`; the same tensor
    if they have it."""
    size = target.shape[-2:]
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear")
