"""Convolutions of a frozen network, with the operations that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlab.nn.minimal_filtering import transform_kernel

CHANNEL_PAIRS = 2**12
"""Fewest pairs of input and output channels for which minimal filtering is faster."""
TILES = 16
"""Fewest tiles for which minimal filtering is faster."""
SIDE = 4
"""Outputs of a tile per side."""


class FrozenConvolution:
    """relu(conv2d(x) + bias + residual) with constant weights, for one image on a CPU, float32.

    3 × 3 convolutions of many channels are computed by minimal filtering, F(4 × 4, 3 × 3). Results
    differ from those of `conv2d` by rounding, up to about 1e-5 of the largest value.
    """

    def __init__(self, weight: Tensor, bias: Tensor, **geometry: Any) -> None:
        """weight: (O, C / groups, r, r). bias: (O,). geometry: stride, padding, dilation and groups
        of `conv2d`."""
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias, self._geometry = bias.expand(len(weight)).contiguous(), geometry
        pairs = (geometry[key] for key in ("stride", "padding", "dilation"))
        plain = all(_pair(value) == [1, 1] for value in pairs) and geometry["groups"] == 1
        many = weight.shape[0] * weight.shape[1] >= CHANNEL_PAIRS
        self.filtered = plain and many and weight.shape[2:] == (3, 3)
        """Whether minimal filtering computes it on maps of at least `TILES` tiles."""
        self._filters: Tensor | None = None

    def __call__(self, x: Tensor, residual: Tensor | None, rectify: bool) -> Tensor:
        """Return maps (1, O, h', w') of x (1, C, h, w). residual: (1, O, h', w'). rectify: apply
        ReLU."""
        rows, columns = (-(-side // SIDE) for side in x.shape[2:])
        shape = (1, len(self._weight), *x.shape[2:])
        fits = residual is None or residual.shape == shape
        if self.filtered and fits and rows * columns >= TILES:
            return self._filter(x, residual, rectify, rows * columns)
        out = F.conv2d(x, self._weight, self._bias, **self._geometry)
        out = out if residual is None else out + residual
        return out.relu_() if rectify else out

    def _filter(self, x: Tensor, residual: Tensor | None, rectify: bool, tiles: int) -> Tensor:
        from vqlab.nn.filtering_kernel import transform_inputs, transform_products  # imports numba

        if self._filters is None:
            self._filters = transform_kernel(self._weight)
        _, inputs, outputs = self._filters.shape
        transformed = x.new_empty(36, tiles, inputs)
        transform_inputs(_array(x), transformed.numpy())
        products = torch.bmm(transformed, self._filters).numpy()
        added = x.new_empty(0, 0, outputs).numpy() if residual is None else _array(residual)
        out = x.new_empty(*x.shape[2:], outputs)
        transform_products(products, self._bias.numpy(), added, rectify, out.numpy())
        return out.permute(2, 0, 1)[None]


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _array(maps: Tensor) -> Any:
    """Return maps (1, C, h, w) as a NumPy array (h, w, C)."""
    return maps[0].permute(1, 2, 0).contiguous().numpy()
