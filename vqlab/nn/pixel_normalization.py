"""Normalisation of anomaly-map terms by the pixels of normal images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.nn.smoothing import smooth

Normalise = Literal["none", "global", "pixel", "excess"]
HIGH = 0.999
"""Quantile of normal pixels that `excess` maps to 1."""


class PixelNormalization(nn.Module):
    """Normalise T terms on maps (H, W) by statistics of normal images, so that they can be added.

    `global`: standardise over all pixels; `pixel`: standardise each pixel, for aligned products;
    `excess`: map the median of normal pixels to 0 and their 0.999 quantile to 1, and clip at 0;
    `none`: identity.
    """

    pixel_mean: Tensor
    pixel_sd: Tensor
    global_mean: Tensor
    global_sd: Tensor
    median: Tensor
    high: Tensor

    def __init__(self, terms: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("pixel_mean", torch.zeros(terms, *size))
        self.register_buffer("pixel_sd", torch.ones(terms, *size))
        for name in ("global_mean", "median"):
            self.register_buffer(name, torch.zeros(terms, 1, 1))
        for name in ("global_sd", "high"):
            self.register_buffer(name, torch.ones(terms, 1, 1))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Fit to batches of terms (T, B, H, W) of normal images; all batches are held in memory."""
        terms = torch.cat(list(batches), 1)
        count, size = terms.shape[0], terms.shape[2:]
        double = terms.double()
        self.pixel_mean.copy_(double.mean(1))
        self.global_mean.copy_(double.mean((1, 2, 3)).view(-1, 1, 1))
        self.global_sd.copy_(_deviation(double.view(count, -1), 1).view(-1, 1, 1).clamp_min(1e-8))
        pixel_sd = smooth(_deviation(double, 1).square().view(count, *size), 2.0).sqrt()
        self.pixel_sd.copy_(pixel_sd + 0.1 * self.global_sd)
        flat = terms.reshape(count, -1)
        self.median.copy_(_quantile(flat, 0.5).view(-1, 1, 1))
        rise = _quantile(flat, HIGH).view(-1, 1, 1) - self.median
        self.high.copy_(self.median + rise.clamp_min(1e-8))

    def normalize(self, terms: Tensor, normalise: Normalise) -> Tensor:
        """Return normalised terms (T, B, H, W)."""
        if normalise == "global":
            return (terms - self.global_mean[:, None]) / self.global_sd[:, None]
        if normalise == "pixel":
            return (terms - self.pixel_mean[:, None]) / self.pixel_sd[:, None]
        if normalise == "excess":
            scaled = (terms - self.median[:, None]) / (self.high - self.median)[:, None]
            return scaled.clamp_min(0)
        return terms


def _deviation(values: Tensor, axis: int) -> Tensor:
    return values.std(axis, correction=0)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Return the q-quantile of each row of (T, N); torch.quantile is limited to 2²⁴ values."""
    place = min(values.shape[1], max(1, round(q * values.shape[1])))
    return values.kthvalue(place, dim=1).values
