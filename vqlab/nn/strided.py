"""Convolutions of an autoencoder, which keep, halve or double the sides of maps (B, C, h, w).

They have the parameters and, up to rounding, the results of torch's layers. On a CPU, layers of
many channels are computed by minimal filtering (`vqlab.nn.minimal_filtering`) while gradients are
enabled. Otherwise torch's layers run, so that scores do not depend on minimal filtering.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vqlab.nn.convolution import fast, taps_first
from vqlab.nn.minimal_filtering import convolve, tile_side

CHANNEL_PAIRS = 2**13
"""Fewest pairs of input and output channels for which minimal filtering is faster."""


class SameConv2d(nn.Conv2d):
    """`nn.Conv2d(inputs, outputs, 3, padding=1)`: (B, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if not _faster(x, self.weight, 3):
            return super().forward(x)
        return _add(self.bias, convolve(x, taps_first(self.weight), 1))


class HalvingConv2d(nn.Conv2d):
    """`nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)`: (B, outputs, h / 2, w / 2).

    A 2 × 2 convolution of cells of 2 × 2 pixels. Odd sides are rounded down.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        even = x.shape[2] % 2 == x.shape[3] % 2 == 0
        if not (even and _faster(x, self.weight, 2)):
            return super().forward(x)
        outputs, inputs = self.weight.shape[:2]
        taps = self.weight.view(outputs, inputs, 2, 2, 2, 2).permute(2, 4, 3, 5, 1, 0)
        return _add(
            self.bias, convolve(_Cells.apply(x), taps.reshape(2, 2, 4 * inputs, outputs), 0)
        )


class SameConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d(inputs, outputs, 3, padding=1)`: (B, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _faster(x, self.weight, 3):
            return super().forward(x, output_size)
        return _add(self.bias, convolve(x, self.weight.flip(2, 3).permute(2, 3, 0, 1), 1))


class DoublingConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)`: (B, outputs, 2 h, 2 w).

    A 2 × 2 convolution to cells of 2 × 2 pixels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _faster(x, self.weight, 2):
            return super().forward(x, output_size)
        inputs, outputs = self.weight.shape[:2]
        taps = self.weight.view(inputs, outputs, 2, 2, 2, 2).flip(2, 4).permute(2, 4, 0, 3, 5, 1)
        cells = convolve(x, taps.reshape(2, 2, inputs, 4 * outputs), 1)
        return _add(self.bias, _Pixels.apply(cells))


def _faster(x: Tensor, weight: Tensor, kernel: int) -> bool:
    """Whether minimal filtering of maps x (B, C, h, w) by a square kernel is faster."""
    images, _, height, width = x.shape
    tiled = tile_side(images, height, width, kernel) > 1
    many = weight.shape[0] * weight.shape[1] >= CHANNEL_PAIRS
    return tiled and many and torch.is_grad_enabled() and fast(x, weight)


def _add(bias: Tensor | None, maps: Tensor) -> Tensor:
    return maps if bias is None else maps + bias[:, None, None]


class _Cells(torch.autograd.Function):
    """`_to_cells` with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _to_cells(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _to_pixels(gradient)


class _Pixels(torch.autograd.Function):
    """`_to_pixels` with its gradient."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor) -> Tensor:
        return _to_pixels(cells)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _to_cells(gradient)


def _to_cells(x: Tensor) -> Tensor:
    """Return cells (B, 4 C, h / 2 + 1, w / 2 + 1) of 2 × 2 pixels of x (B, C, h, w) padded by 1."""
    images, channels, height, width = x.shape
    cells = x.new_empty(images, height // 2 + 1, width // 2 + 1, 2, 2, channels)
    for edge in (0, -1):
        cells[:, edge, :, edge].zero_()
        cells[:, :, edge, :, edge].zero_()
    for pixels, part in _parts(x.movedim(1, -1), cells):
        part.copy_(pixels)
    return cells.flatten(3).movedim(-1, 1)


def _to_pixels(cells: Tensor) -> Tensor:
    """Return the maps (B, C, h, w) of `_to_cells`, without the padding."""
    images, channels, height, width = cells.shape
    split = cells.movedim(1, -1).reshape(images, height, width, 2, 2, channels // 4)
    x = cells.new_empty(images, 2 * height - 2, 2 * width - 2, channels // 4)
    for pixels, part in _parts(x, split):
        pixels.copy_(part)
    return x.movedim(-1, 1)


def _parts(x: Tensor, cells: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield equal parts of x (B, h, w, C) and cells (B, h / 2 + 1, w / 2 + 1, 2, 2, C)."""
    height = x.shape[1] // 2
    for row in (0, 1):
        rows, part = x[:, row::2], cells[:, row : row + height, :, 1 - row]
        yield torch.unflatten(rows[:, :, 1:-1], 2, (-1, 2)), part[:, :, 1:-1]
        yield rows[:, :, 0], part[:, :, 0, 1]
        yield rows[:, :, -1], part[:, :, -1, 0]
