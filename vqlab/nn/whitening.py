"""Whitening or standardisation of features as a fixed first layer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vqlab.nn.precision import without_autocast

WhiteningName = Literal["whiten", "standardise", "none"]


class Whitening(nn.Module):
    """Affine map of rows (N, C) to (N, dim): (x − mean) · matrix, constant after `fit`.

    kind: `whiten` scales principal axes to variance 1; `standardise` scales channels to variance 1;
    `none` is the identity. Variances are clamped below at `floor` times the mean variance, so that
    noise is not amplified. dims: number of principal axes to keep, by variance; None: all.
    `log_det` () is log |det matrix| over the kept axes, in nats.
    """

    mean: Tensor
    matrix: Tensor
    log_det: Tensor

    def __init__(
        self,
        channels: int,
        kind: WhiteningName = "whiten",
        floor: float = 0.01,
        dims: int | None = None,
    ) -> None:
        super().__init__()
        self.kind, self.floor = kind, floor
        self.dim = channels if dims is None or kind != "whiten" else min(dims, channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("matrix", torch.eye(channels)[:, : self.dim].contiguous())
        self.register_buffer("log_det", torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        with without_autocast(rows.device):
            if self.kind == "none":
                return rows.float()
            return (rows.float() - self.mean) @ self.matrix

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Fit to rows (N, C), N ≥ 2."""
        if self.kind == "none":
            return
        wide = rows.double()
        mean = wide.mean(0)
        covariance = (wide - mean).T @ (wide - mean) / (len(wide) - 1)
        if self.kind == "standardise":
            variance, axes = covariance.diagonal(), torch.eye(len(mean)).to(wide)
        else:
            variance, axes = torch.linalg.eigh(covariance)
            variance, axes = variance.flip(0), axes.flip(1)
        minimum = (self.floor * variance.mean()).clamp_min(1e-12)
        self.mean.copy_(mean)
        deviation = variance.clamp_min(minimum).sqrt()[: self.dim]
        self.matrix.copy_(axes[:, : self.dim] / deviation)
        self.log_det.copy_(-deviation.log().sum())
