"""Sinusoidal positional encoding."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_positions(height: int, width: int, dim: int) -> Tensor:
    """Return the 2-D positional encoding (height · width, dim); dim is a multiple of 4.

    The first half encodes the column, the second the row: sines and cosines of the index times
    10000^(−2j / (dim / 2)), j = 0 … dim / 4 − 1 (Vaswani et al. 2017).
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4; got {dim}.")
    rate = 10000 ** (-2 * torch.arange(dim // 4) / (dim / 2))

    def encode(length: int) -> Tensor:
        angle = torch.arange(length)[:, None] * rate
        return torch.cat([angle.sin(), angle.cos()], 1)

    columns = encode(width)[None].expand(height, -1, -1)
    rows = encode(height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], -1).reshape(height * width, dim)
