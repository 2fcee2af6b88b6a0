"""Convolution of many channels by minimal filtering (Winograd; Lavin & Gray 2016, "Fast algorithms
for convolutional neural networks").

F(m × m, r × r) computes a tile of m × m outputs of an r × r kernel with (m + r − 1)² products per
pair of channels instead of (m r)². Tiles have six inputs per side: m is 4 for 3 × 3 kernels and 5
for 2 × 2 kernels. The result equals that of the direct convolution up to rounding. Maps are
(B, C, h, w) with channels last in memory; kernels are (r, r, C, O).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TILES = 32
"""Smallest number of tiles for which minimal filtering is faster than direct products."""
ROWS = 128
"""Tiles of a matrix product that is efficient."""
CACHE = 2**22
"""Numbers that fit into a CPU cache."""
# Transforms of input tiles, kernels and output tiles (Lavin & Gray, section 4.3): polynomials at
# the points 0, 1, −1, 2, −2 and infinity.
_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
    ]
)  # fmt: skip
_KERNEL = {
    2: torch.tensor([[6.0, 0], [-4, -4], [-4, 4], [1, 2], [1, -2], [0, 24]]).double() / 24,
    3: torch.tensor(
        [[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    ).double() / 24,
}  # fmt: skip
_OUTPUT = {
    4: torch.tensor(
        [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    ),
    5: torch.tensor(
        [
            [1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 0],
            [0, 1, 1, 16, 16, 1],
        ]
    ),
}  # fmt: skip


def convolve(x: Tensor, kernel: Tensor, padding: int, constant: Tensor | None = None) -> Tensor:
    """Return the convolution (B, O, h', w') of x (B, C, h, w), h' = h + 2 · padding − r + 1.

    kernel: (r, r, C, O), r 2 or 3. With constant (B, D) it is (3, 3, C + D, O), padding is 1, and
    the last D input channels have this value at every position.
    """
    out: Tensor = _Convolution.apply(x, constant, kernel, padding)
    return out


def tile_side(images: int, height: int, width: int, kernel: int = 3) -> int:
    """Return the side m of the tiles for output maps of this size; 1: direct products."""
    m = 7 - kernel
    return m if images * -(-height // m) * -(-width // m) >= TILES else 1


class _Convolution(torch.autograd.Function):
    """`convolve`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, constant: Tensor | None, kernel: Tensor, padding: int
    ) -> Tensor:
        grid, channels = _Grid(x.shape, len(kernel), padding), x.shape[1]
        taps = kernel.flatten(0, 1)
        tiles: list[Tensor] = []
        out = x.new_empty(len(x), grid.height, grid.width, kernel.shape[3])
        groups, parts = grid.partition(channels, kernel.shape[3])
        for part in parts:
            filters = grid.filters(taps[:, :channels, part])
            for number, images in enumerate(groups):
                if number == len(tiles):
                    tiles.append(grid.input_tiles(x[images]))
                grid.write_maps(torch.bmm(tiles[number], filters), out[images][..., part])
        if constant is not None:
            sums = torch.stack([constant @ tap[channels:] for tap in taps], 1)  # (B, 9, O)
            for image, total in zip(out.flatten(1, 2), sums, strict=True):
                image.addmm_(_inside(x).T, total)
        ctx.save_for_backward(x, constant, kernel, *(tiles if grid.m > 1 else ()))
        ctx.grid = grid
        return out.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, constant, kernel, *tiles = ctx.saved_tensors
        grid, channels = ctx.grid, x.shape[1]
        taps, gradient = kernel.flatten(0, 1), gradient.movedim(1, -1)
        of_x, of_taps = torch.empty_like(x), torch.empty_like(taps)
        groups, parts = grid.partition(channels, kernel.shape[3])
        tiles = tiles or [grid.input_tiles(x[images]) for images in groups]
        of_tiles: dict[int, Tensor] = {}
        for part in parts:
            filters = grid.filters(taps[:, :channels, part])
            of_filters: Tensor | None = None
            for number, images in enumerate(groups):
                products = grid.product_gradient(gradient[images][..., part])
                of_filters = _add_product(of_filters, tiles[number].mT, products)
                of_tiles[number] = _add_product(of_tiles.get(number), products, filters.mT)
                if part is parts[-1]:
                    of_x[images] = grid.fold(of_tiles.pop(number))
            assert of_filters is not None
            of_taps[:, :channels, part] = grid.filter_gradient(of_filters)
        of_constant = None
        if constant is not None:
            sums = torch.stack([_inside(x) @ image for image in gradient.flatten(1, 2)], 1)
            of_constant = torch.zeros_like(constant)
            for tap, total, of_tap in zip(taps, sums, of_taps, strict=True):
                of_constant.addmm_(total, tap[channels:].T)
                torch.mm(constant.T, total, out=of_tap[channels:])
        return of_x, of_constant, of_taps.view(kernel.shape), None


class _Grid:
    """Tiles of the maps of one convolution."""

    def __init__(self, shape: torch.Size, r: int, padding: int) -> None:
        """shape: of the input maps; r: side of the kernel."""
        self.shape, self.r, self.padding = shape, r, padding
        images, _, height, width = shape
        self.height, self.width = (side + 2 * padding - r + 1 for side in (height, width))
        self.m = m = tile_side(images, self.height, self.width, r)
        self.side = m + r - 1
        """Inputs of a tile per side."""
        self.rows, self.columns = -(-self.height // m), -(-self.width // m)
        self.input = _INPUT if m > 1 else None
        self.kernel = _KERNEL[r] if m > 1 else None
        self.output = _OUTPUT[m] if m > 1 else None

    def partition(self, inputs: int, outputs: int) -> tuple[list[slice], list[slice]]:
        """Return groups of images whose tiles fit into a CPU cache, if all filters do; else groups
        of output channels whose filters and products do."""
        images, tiles = self.shape[0], self.rows * self.columns
        if self.side**2 * inputs * outputs <= CACHE:
            size = max(CACHE // (self.side**2 * tiles * max(inputs, outputs)), ROWS // tiles, 1)
            return _slices(images, size), [slice(0, outputs)]
        size = max(16, CACHE // (self.side**2 * max(inputs, images * tiles)))
        return [slice(0, images)], _slices(outputs, size)

    def input_tiles(self, x: Tensor) -> Tensor:
        """Return overlapping tiles of x (B, C, h, w), transformed, (side², tiles, C)."""
        m, side, before = self.m, self.side, self.padding
        below, right = (
            count * m + self.r - 1 - before - length
            for count, length in ((self.rows, x.shape[2]), (self.columns, x.shape[3]))
        )
        padded = F.pad(x.movedim(1, -1), (0, 0, before, right, before, below))
        tiles = padded.unfold(1, side, m).unfold(2, side, m).permute(4, 5, 0, 1, 2, 3)
        return _both(self.input, tiles.contiguous()).view(side**2, -1, x.shape[1])

    def fold(self, gradient: Tensor) -> Tensor:
        """Return the gradient of x (B, C, h, w) from that of `input_tiles`."""
        m, side, channels = self.m, self.side, gradient.shape[2]
        rows, columns, before = self.rows, self.columns, self.padding
        shaped = gradient.view(side, side, -1, rows, columns, channels)
        tiles = _both(_transposed(self.input), shaped)
        overlap = self.r - 1
        padded = tiles.new_zeros(
            shaped.shape[2], rows * m + overlap, columns * m + overlap, channels
        )  # fmt: skip
        for i in range(side):
            for j in range(side):
                padded[:, i : i + rows * m : m, j : j + columns * m : m] += tiles[i, j]
        height, width = self.shape[2:]
        return padded[:, before : before + height, before : before + width].movedim(-1, 1)

    def filters(self, taps: Tensor) -> Tensor:
        """Return the transform (side², C, O) of taps (r², C, O)."""
        return _both(self.kernel, _sides(taps)).flatten(0, 1)

    def filter_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient of taps (r², C, O) from that of `filters`."""
        return _both(_transposed(self.kernel), _sides(gradient)).flatten(0, 1)

    def write_maps(self, products: Tensor, out: Tensor) -> None:
        """Write maps (B, h', w', O) from products (side², tiles, O)."""
        if self.output is None:
            out.copy_(products.sum(0).view(out.shape))
            return
        tiles = _both(self.output, _sides(products))
        tiles = tiles.view(self.m, self.m, len(out), self.rows, self.columns, -1)
        tiles = tiles.permute(2, 3, 0, 4, 1, 5)
        out.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, : self.height, : self.width])

    def product_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient (side², tiles, O) of products from that of maps (B, h', w', O)."""
        outputs, m = gradient.shape[3], self.m
        if self.output is None:
            return gradient.reshape(1, -1, outputs).expand(self.side**2, -1, -1)
        right, below = self.columns * m - self.width, self.rows * m - self.height
        padded = F.pad(gradient, (0, 0, 0, right, 0, below))
        tiles = padded.view(len(gradient), self.rows, m, self.columns, m, outputs)
        tiles = tiles.permute(2, 4, 0, 1, 3, 5)
        transformed = _both(self.output.T, tiles.contiguous())
        return transformed.view(self.side**2, -1, outputs)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) if total is None else total.baddbmm_(a, b)


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _sides(values: Tensor) -> Tensor:
    """Reshape (q², …) to (q, q, …)."""
    side = math.isqrt(len(values))
    return values.view(side, side, *values.shape[1:])


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.T


def _both(matrix: Tensor | None, values: Tensor) -> Tensor:
    """Multiply both of the first two dimensions of values (q, q, …) by a matrix (p, q), if any."""
    if matrix is None:
        return values
    matrix = matrix.to(values)
    rows = matrix @ values.flatten(1)
    both = torch.matmul(matrix, rows.view(len(matrix), matrix.shape[1], -1))
    return both.view(len(matrix), len(matrix), *values.shape[2:])


def _inside(x: Tensor) -> Tensor:
    """Return which of 3 × 3 taps fall inside maps x (B, C, h, w) at each position, 0 or 1,
    (9, h · w)."""
    return F.unfold(x.new_ones(1, 1, *x.shape[2:]), 3, padding=1)[0]
