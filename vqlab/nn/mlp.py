"""Rows through linear layers, each with batch norm and ReLU: the encoders of arXiv 2409.00942."""

from __future__ import annotations

from torch import nn

from vqlab.nn.batch_norm import BatchNorm


class Dense(nn.Sequential):
    """Rows (N, widths[0]) to (N, widths[-1]), none negative; needs two rows in training."""

    def __init__(self, *widths: int) -> None:
        layers: list[nn.Module] = []
        for before, after in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(before, after), BatchNorm(after), nn.ReLU()]
        super().__init__(*layers)
