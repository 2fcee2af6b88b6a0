"""Multi-layer perceptron: the encoders of arXiv 2409.00942."""

from __future__ import annotations

from torch import nn

from vqlab.nn.batch_norm import BatchNorm


class MLP(nn.Sequential):
    """Linear, batch norm, ReLU layers: (N, widths[0]) → (N, widths[-1]), N ≥ 2 when training."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for in_features, out_features in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(in_features, out_features), BatchNorm(out_features), nn.ReLU()]
        super().__init__(*layers)
