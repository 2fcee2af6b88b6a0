"""Gaussian smoothing of maps on torch tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_kernel(sigma: float, radius: int) -> Tensor:
    """Return normalised Gaussian weights (2·radius + 1,)."""
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (x / sigma).square())
    return weights / weights.sum()


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Convolve maps (..., H, W) with a Gaussian of standard deviation `sigma` pixels.

    Truncated at 3 sigma (at most the map's side), reflected borders; sigma 0 is the identity.
    """
    height, width = maps.shape[-2:]
    for axis, size in ((-2, height), (-1, width)):
        radius = min(math.ceil(3 * sigma), size - 1)
        if radius > 0:
            maps = _convolve(maps, gaussian_kernel(sigma, radius).to(maps), axis)
    return maps


def upsample(maps: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Resize maps (B, h, w) bilinearly to `size` (H, W), then smooth them with a Gaussian of
    standard deviation `sigma` pixels."""
    full = F.interpolate(maps[:, None], size, mode="bilinear")[:, 0]
    return smooth(full, sigma)


def _convolve(maps: Tensor, kernel: Tensor, axis: int) -> Tensor:
    radius = len(kernel) // 2
    images = maps.reshape(-1, 1, *maps.shape[-2:])
    if axis == -2:
        padded = F.pad(images, (0, 0, radius, radius), mode="reflect")
        result = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    else:
        padded = F.pad(images, (radius, radius, 0, 0), mode="reflect")
        result = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return result.view(maps.shape)
