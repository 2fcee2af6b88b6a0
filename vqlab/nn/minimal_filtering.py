"""Convolution of many channels by minimal filtering (Winograd; Lavin & Gray 2016, "Fast algorithms
for convolutional neural networks").

F(m × m, r × r) computes a tile of m × m outputs of an r × r kernel with (m + r − 1)² products per
pair of channels instead of (m r)². m is 4 or 2 for 3 × 3 kernels, depending on the number of tiles,
and 5 for 2 × 2 kernels. The result equals that of the direct convolution up to rounding. Maps are
(B, C, h, w) with channels last in memory; kernels are (r, r, C, O).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILES = {4: 64, 2: 64, 5: 32}
"""Smallest number of tiles of side m for which minimal filtering is faster."""
SHARE = 0.6
"""Largest share of the products of the direct convolution at which minimal filtering is faster;
tiles that extend beyond a narrow map need more."""
ROWS = 128
"""Tiles of a matrix product that is efficient."""
CACHE = 2**22
"""Numbers that fit into a CPU cache."""
PART = 2**23
"""Numbers in filters and products that are computed at once, of kernels that do not fit."""


class _Transforms(NamedTuple):
    """Matrices Bᵀ, G and Aᵀ of Lavin & Gray, section 4.3."""

    input: Tensor
    kernel: Tensor
    output: Tensor


def _at_six_points(m: int, r: int) -> _Transforms:
    """Return the transforms at the points 0, 1, −1, 2, −2 and infinity, m + r = 7."""
    points = torch.tensor([0.0, 1, -1, 2, -2], dtype=torch.float64)
    weights = torch.tensor([6.0, -4, -4, 1, 1], dtype=torch.float64) / 24
    last = [torch.zeros(length, dtype=torch.float64) for length in (r, m)]
    for row in last:
        row[-1] = 1
    powers = torch.stack([points**power for power in range(5)], 1)
    kernel = torch.cat([weights[:, None] * powers[:, :r], last[0][None]])
    output = torch.cat([powers[:, :m], last[1][None]]).T
    return _Transforms(_INPUT, kernel, output)


_INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
    ]
)  # fmt: skip
_TRANSFORMS = {
    (2, 3): _Transforms(
        torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
        torch.tensor([[2.0, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
        torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]]),
    ),
    (4, 3): _at_six_points(4, 3),
    (5, 2): _at_six_points(5, 2),
}


def convolve(x: Tensor, kernel: Tensor, padding: int, constant: Tensor | None = None) -> Tensor:
    """Return the convolution (B, O, h', w') of x (B, C, h, w), h' = h + 2 · padding − r + 1.

    kernel: (r, r, C, O), r 2 or 3. With constant (B, D) it is (3, 3, C + D, O), padding is 1, and
    the last D input channels have this value at every position.
    """
    grid = _Grid(x.shape, len(kernel), padding)
    function = _Direct if grid.m == 1 else _Filtered
    out: Tensor = function.apply(x, constant, kernel, grid)
    return out


def tile_side(images: int, height: int, width: int, kernel: int = 3) -> int:
    """Return the side m of the tiles for output maps of this size; 1: direct products."""
    direct = height * width * kernel**2
    for m in (4, 2) if kernel == 3 else (5,):
        tiles = -(-height // m) * -(-width // m)
        if images * tiles >= TILES[m] and tiles * (m + kernel - 1) ** 2 <= SHARE * direct:
            return m
    return 1


def transform_kernel(weight: Tensor) -> Tensor:
    """Return the transform (36, C, O), computed in float64, of the weight (O, C, 3, 3) of a
    convolution, for tiles of 4 × 4 outputs."""
    kernel = _TRANSFORMS[4, 3].kernel
    taps = weight.double().permute(2, 3, 1, 0)
    transformed = torch.einsum("ir,js,rsco->ijco", kernel, kernel, taps)
    return transformed.flatten(0, 1).to(weight.dtype).contiguous()


class _Filtered(torch.autograd.Function):
    """`convolve` by minimal filtering."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, constant: Tensor | None, kernel: Tensor, grid: _Grid
    ) -> Tensor:
        channels, taps = x.shape[1], kernel.flatten(0, 1)
        tiles: list[Tensor] = []
        out = x.new_empty(len(x), grid.height, grid.width, kernel.shape[3])
        groups, parts = grid.partition(channels, kernel.shape[3])
        for part in parts:
            filters = grid.filters(taps[:, :channels, part])
            for number, images in enumerate(groups):
                if number == len(tiles):
                    tiles.append(grid.input_tiles(x[images]))
                grid.write_maps(torch.bmm(tiles[number], filters), out[images][..., part])
        _add_constant(out, constant, taps, channels)
        ctx.save_for_backward(x, constant, kernel, *tiles)
        ctx.grid = grid
        return out.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, constant, kernel, *tiles = ctx.saved_tensors
        grid, channels = ctx.grid, x.shape[1]
        taps, gradient = kernel.flatten(0, 1), gradient.movedim(1, -1)
        of_x, of_taps = torch.empty_like(x), torch.empty_like(taps)
        groups, parts = grid.partition(channels, kernel.shape[3])
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
        of_constant = _constant_gradient(gradient, constant, taps, of_taps)
        return of_x, of_constant, of_taps.view(kernel.shape), None


class _Direct(torch.autograd.Function):
    """`convolve` by one matrix product per tap."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, constant: Tensor | None, kernel: Tensor, grid: _Grid
    ) -> Tensor:
        channels, taps = x.shape[1], kernel.flatten(0, 1)
        shifted = grid.input_tiles(x)
        out = x.new_zeros(shifted.shape[1], kernel.shape[3])
        for rows, tap in zip(shifted, taps, strict=True):
            out.addmm_(rows, tap[:channels])
        out = out.view(len(x), grid.height, grid.width, -1)
        _add_constant(out, constant, taps, channels)
        ctx.save_for_backward(x, constant, kernel)
        ctx.grid = grid
        return out.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, constant, kernel = ctx.saved_tensors
        channels, taps = x.shape[1], kernel.flatten(0, 1)
        shifted, gradient = ctx.grid.input_tiles(x), gradient.movedim(1, -1)
        flat = gradient.reshape(-1, kernel.shape[3])
        of_shifted, of_taps = torch.empty_like(shifted), torch.empty_like(taps)
        for rows, tap, of_rows, of_tap in zip(shifted, taps, of_shifted, of_taps, strict=True):
            torch.mm(flat, tap[:channels].T, out=of_rows)
            torch.mm(rows.T, flat, out=of_tap[:channels])
        of_constant = _constant_gradient(gradient, constant, taps, of_taps)
        return ctx.grid.fold(of_shifted), of_constant, of_taps.view(kernel.shape), None


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
        if m > 1:
            self.input, kernel, self.output = _TRANSFORMS[m, r]
            self.kernel = torch.kron(kernel, kernel)
            """Transform of a whole kernel, (side², r²)."""

    def partition(self, inputs: int, outputs: int) -> tuple[list[slice], list[slice]]:
        """Return groups of images whose tiles fit into a CPU cache, if all filters do; else groups
        of output channels."""
        images, tiles = self.shape[0], self.rows * self.columns
        if self.side**2 * inputs * outputs <= CACHE:
            size = max(CACHE // (self.side**2 * tiles * max(inputs, outputs)), ROWS // tiles, 1)
            return _slices(images, size), [slice(0, outputs)]
        size = PART // (self.side**2 * max(inputs, images * tiles))
        size = max(16, size - size % 64)  # whole blocks of a matrix product
        return [slice(0, images)], _slices(outputs, size)

    def input_tiles(self, x: Tensor) -> Tensor:
        """Return overlapping tiles of x (B, C, h, w), transformed, (side², tiles, C)."""
        m, side, before = self.m, self.side, self.padding
        below, right = (
            count * m + self.r - 1 - before - length
            for count, length in ((self.rows, x.shape[2]), (self.columns, x.shape[3]))
        )
        padded = F.pad(x.movedim(1, -1), (0, 0, before, right, before, below))
        tiles = padded.unfold(1, side, m).unfold(2, side, m).permute(4, 5, 0, 1, 2, 3).contiguous()
        tiles = _both(self.input, tiles) if m > 1 else tiles
        return tiles.view(side**2, -1, x.shape[1])

    def fold(self, gradient: Tensor) -> Tensor:
        """Return the gradient of x (B, C, h, w) from that of `input_tiles`."""
        m, side, channels = self.m, self.side, gradient.shape[2]
        rows, columns, before = self.rows, self.columns, self.padding
        tiles = gradient.view(side, side, -1, rows, columns, channels)
        tiles = _both(self.input.T, tiles) if m > 1 else tiles
        height, width = (count * m + self.r - 1 for count in (rows, columns))
        padded = tiles.new_zeros(tiles.shape[2], height, width, channels)
        for i in range(side):
            for j in range(side):
                padded[:, i : i + rows * m : m, j : j + columns * m : m] += tiles[i, j]
        height, width = self.shape[2:]
        return padded[:, before : before + height, before : before + width].movedim(-1, 1)

    def filters(self, taps: Tensor) -> Tensor:
        """Return the transform (side², C, O) of taps (r², C, O)."""
        by_channel = torch.matmul(self.kernel.to(taps), taps.transpose(0, 1))  # without a copy
        return by_channel.transpose(0, 1)

    def filter_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient of taps (r², C, O) from that of `filters`."""
        products = self.kernel.T.to(gradient) @ gradient.flatten(1)
        return products.view(-1, *gradient.shape[1:])

    def write_maps(self, products: Tensor, out: Tensor) -> None:
        """Write maps (B, h', w', O) from products (side², tiles, O)."""
        tiles = _both(self.output, products.view(self.side, self.side, *products.shape[1:]))
        tiles = tiles.view(self.m, self.m, len(out), self.rows, self.columns, -1)
        tiles = tiles.permute(2, 3, 0, 4, 1, 5)
        out.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, : self.height, : self.width])

    def product_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient (side², tiles, O) of products from that of maps (B, h', w', O)."""
        outputs, m = gradient.shape[3], self.m
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


def _both(matrix: Tensor, values: Tensor) -> Tensor:
    """Multiply both of the first two dimensions of values (q, q, …) by a matrix (p, q)."""
    matrix = matrix.to(values)
    rows = matrix @ values.flatten(1)
    both = torch.matmul(matrix, rows.view(len(matrix), matrix.shape[1], -1))
    return both.view(len(matrix), len(matrix), *values.shape[2:])


# The part of the input that is equal everywhere


def _add_constant(out: Tensor, constant: Tensor | None, taps: Tensor, channels: int) -> None:
    """Add the convolution of a constant (B, D) to maps (B, h, w, O); taps (9, channels + D, O)."""
    if constant is None:
        return
    sums = torch.stack([constant @ tap[channels:] for tap in taps], 1)  # (B, 9, O)
    for image, total in zip(out.flatten(1, 2), sums, strict=True):
        image.addmm_(_inside(out).T, total)


def _constant_gradient(
    gradient: Tensor, constant: Tensor | None, taps: Tensor, of_taps: Tensor
) -> Tensor | None:
    """Return the gradient (B, D) of a constant from that of maps (B, h, w, O); write that of the
    last D input channels of taps (9, C + D, O)."""
    if constant is None:
        return None
    inside, channels = _inside(gradient), taps.shape[1] - constant.shape[1]
    sums = torch.stack([inside @ image for image in gradient.flatten(1, 2)], 1)  # (9, B, O)
    of_constant = torch.zeros_like(constant)
    for tap, total, of_tap in zip(taps, sums, of_taps, strict=True):
        of_constant.addmm_(total, tap[channels:].T)
        torch.mm(constant.T, total, out=of_tap[channels:])
    return of_constant


def _inside(maps: Tensor) -> Tensor:
    """Return which of 3 × 3 taps fall inside maps (B, h, w, O) at each position, 0 or 1,
    (9, h · w)."""
    return F.unfold(maps.new_ones(1, 1, *maps.shape[1:3]), 3, padding=1)[0]
