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
    return _smooth_axis(_smooth_axis(maps, sigma, -2), sigma, -1)


def upsample(maps: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Resize maps (B, h, w) bilinearly to `size` (H, W), then smooth them with a Gaussian of
    standard deviation `sigma` pixels.

    Both steps are linear in rows and in columns, so that they are two matrix products.
    """
    height, width = maps.shape[-2:]
    rows = columns = _upsampling(maps, height, size[0], sigma)
    if (width, size[1]) != (height, size[0]):
        columns = _upsampling(maps, width, size[1], sigma)
    return rows.T @ maps @ columns


def _upsampling(like: Tensor, before: int, after: int, sigma: float) -> Tensor:
    """Return the matrix (before, after) that resizes and smooths rows of length `before`."""
    unit = torch.eye(before, dtype=like.dtype, device=like.device)
    return _smooth_axis(F.interpolate(unit[None], after, mode="linear")[0], sigma, -1)


def _smooth_axis(maps: Tensor, sigma: float, axis: int) -> Tensor:
    radius = min(math.ceil(3 * sigma), maps.shape[axis] - 1)
    if radius == 0:
        return maps
    kernel = gaussian_kernel(sigma, radius).to(maps)
    images = maps.reshape(-1, 1, *maps.shape[-2:])
    if axis == -2:
        padded = F.pad(images, (0, 0, radius, radius), mode="reflect")
        result = F.conv2d(padded, kernel.view(1, 1, -1, 1))
    else:
        padded = F.pad(images, (radius, radius, 0, 0), mode="reflect")
        result = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return result.view(maps.shape)
