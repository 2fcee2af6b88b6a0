"""What is normal for a term of an anomaly map: makes terms comparable, so that they add up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.nn.smoothing import smooth

Normalise = Literal["none", "global", "pixel", "excess"]
HIGH = 0.999
"""Quantile of normal pixels that `excess` maps to 1."""


class Normality(nn.Module):
    """Statistics of T terms on maps (H, W) of normal images, and terms measured by them.

    `global`: mean 0, deviation 1 over all pixels; `pixel`: at each pixel, for products that lie
    alike; `excess`: how far a value rises above normal, 0 up to the median and 1 at the 0.999
    quantile of all normal pixels, so that what is common adds nothing; `none`: as it is.
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
        """Fit to the terms (T, B, H, W) of normal images, batch by batch (kept in memory)."""
        terms = torch.cat(list(batches), 1)
        count, size = terms.shape[0], terms.shape[2:]
        double = terms.double()
        self.pixel_mean.copy_(double.mean(1))
        self.global_mean.copy_(double.mean((1, 2, 3)).view(-1, 1, 1))
        self.global_sd.copy_(_deviation(double.view(count, -1), 1).view(-1, 1, 1).clamp_min(1e-8))
        own = smooth(_deviation(double, 1).square().view(count, *size), 2.0).sqrt()
        self.pixel_sd.copy_(own + 0.1 * self.global_sd)
        flat = terms.reshape(count, -1)
        self.median.copy_(_quantile(flat, 0.5).view(-1, 1, 1))
        rise = _quantile(flat, HIGH).view(-1, 1, 1) - self.median
        self.high.copy_(self.median + rise.clamp_min(1e-8))

    def measure(self, terms: Tensor, normalise: Normalise) -> Tensor:
        """Terms (T, B, H, W), measured by what is normal."""
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
    """The q-quantile of each row of (T, N); torch.quantile takes no more than 2²⁴ values."""
    place = min(values.shape[1], max(1, round(q * values.shape[1])))
    return values.kthvalue(place, dim=1).values
