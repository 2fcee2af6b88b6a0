"""Brightness augmentation."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_brightness(images: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Return images (B, C, H, W) in [0, 1], each multiplied by a random gain, clipped to [0, 1].

    The logarithm of a gain is normal with mean 0 and standard deviation `spread`; `generator` is
    on the CPU, so that every device gets the same gains.
    """
    gains = (spread * torch.randn(len(images), 1, 1, 1, generator=generator)).exp()
    return (images * gains.to(images)).clamp(0, 1)
