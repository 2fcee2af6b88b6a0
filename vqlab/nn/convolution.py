"""3 × 3 convolution of many channels at few positions.

On a CPU by minimal filtering (Winograd; Lavin & Gray 2016, "Fast algorithms for convolutional
neural networks"): F(m × m, 3 × 3) computes a tile of m × m outputs with (m + 2)² products per pair
of channels instead of 9 m². The result equals that of the direct convolution up to rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILES = 32
"""Smallest number of 4 × 4 tiles for which F(4 × 4, 3 × 3) is faster than direct products."""
CACHE = 2**22
"""Numbers that fit into a CPU cache."""
# Transforms of input tiles, weights and output tiles by side m (Lavin & Gray, section 4.3).
_INPUT = {
    1: torch.eye(3),
    4: torch.tensor(
        [
            [4.0, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
        ]
    ),
}  # fmt: skip
_WEIGHT = {
    1: torch.eye(3),
    4: torch.tensor(
        [[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    ).double() / 24,
}  # fmt: skip
_OUTPUT = torch.tensor(
    [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
)


class Conv3x3(nn.Module):
    """`nn.Conv2d(inputs, outputs, 3, padding=1)` of maps and vectors that are equal everywhere.

    The input channels are those of x (B, C, h, w), then those of `constant` (B, D), which has the
    same value at every position: the products with it are computed once per image. The weight is
    (3, 3, inputs, outputs); state dicts have that of `nn.Conv2d`, (outputs, inputs, 3, 3).
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        start = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
        self.weight = nn.Parameter(taps_first(start.weight.data).contiguous())
        self.bias = start.bias
        self.register_state_dict_post_hook(_save_outputs_first)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_load_taps_first)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor, constant: Tensor | None = None) -> Tensor:
        """Return maps (B, outputs, h, w)."""
        if fast(x, self.weight):
            out: Tensor = _Convolution.apply(x, constant, self.weight)
            return out if self.bias is None else out + self.bias[:, None, None]
        if constant is not None:
            x = torch.cat([x, constant[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        return F.conv2d(x, outputs_first(self.weight), self.bias, padding=1)


def taps_first(weight: Tensor) -> Tensor:
    """Return a view (3, 3, C, O) of the weight (O, C, 3, 3) of a convolution."""
    return weight.permute(2, 3, 1, 0)


def outputs_first(weight: Tensor) -> Tensor:
    """Return a view (O, C, 3, 3) of a weight (3, 3, C, O)."""
    return weight.permute(3, 2, 0, 1)


def in_layout_of(weight: Tensor, saved: Tensor) -> Tensor:
    """Return a tensor saved for a weight, (3, 3, C, O) also if it was saved as (O, C, 3, 3)."""
    if saved.ndim == 4 and saved.shape != weight.shape == taps_first(saved).shape:
        return taps_first(saved).contiguous()
    return saved


def _save_outputs_first(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[f"{prefix}weight"] = outputs_first(state[f"{prefix}weight"])


def _load_taps_first(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}weight" in state:
        state[f"{prefix}weight"] = taps_first(state[f"{prefix}weight"])


def fast(x: Tensor, weight: Tensor) -> bool:
    """Whether minimal filtering applies: on a CPU in float32 or float64, not in a traced graph."""
    wide = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return wide and x.is_cpu and not torch.is_autocast_enabled("cpu") and not _traced()


def _traced() -> bool:
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def tile_side(images: int, height: int, width: int) -> int:
    """Return the side m of the tiles for maps of this size."""
    return 4 if images * -(-height // 4) * -(-width // 4) >= TILES else 1


class _Convolution(torch.autograd.Function):
    """Convolution of x (B, C, h, w) and a constant (B, D) by a weight (3, 3, C + D, O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, constant: Tensor | None, weight: Tensor) -> Tensor:
        m, channels = tile_side(len(x), *x.shape[2:]), x.shape[1]
        taps, tiles = weight.flatten(0, 1), _input_tiles(x, m)
        out = x.new_empty(len(x), *x.shape[2:], weight.shape[3])
        for part in _parts(tiles, weight.shape[3]):
            filters = _both(_WEIGHT[m], _sides(taps[:, :channels, part]))
            _write_maps(torch.bmm(tiles, filters.flatten(0, 1)), out[..., part], m)
        if constant is not None:
            sums = torch.stack([constant @ tap[channels:] for tap in taps], 1)  # (B, 9, O)
            for image, total in zip(out.flatten(1, 2), sums, strict=True):
                image.addmm_(_inside(x).T, total)
        ctx.save_for_backward(x, tiles if m > 1 else None, constant, weight)
        return out.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, tiles, constant, weight = ctx.saved_tensors
        m, channels = tile_side(len(x), *x.shape[2:]), x.shape[1]
        tiles = _input_tiles(x, m) if tiles is None else tiles
        taps, gradient = weight.flatten(0, 1), gradient.movedim(1, -1)
        of_tiles, of_taps = torch.zeros_like(tiles), torch.empty_like(taps)
        for part in _parts(tiles, weight.shape[3]):
            products = _product_gradient(gradient[..., part], m)
            filters = _both(_WEIGHT[m], _sides(taps[:, :channels, part]))
            of_tiles.baddbmm_(products, filters.flatten(0, 1).mT)
            of_filters = _sides(torch.bmm(tiles.mT, products))
            of_taps[:, :channels, part] = _both(_WEIGHT[m].T, of_filters).flatten(0, 1)
        of_constant = None
        if constant is not None:
            sums = torch.stack([_inside(x) @ image for image in gradient.flatten(1, 2)], 1)
            of_constant = torch.zeros_like(constant)
            for tap, total, of_tap in zip(taps, sums, of_taps, strict=True):
                of_constant.addmm_(total, tap[channels:].T)
                torch.mm(constant.T, total, out=of_tap[channels:])
        return _fold(of_tiles, x.shape, m), of_constant, of_taps.view(weight.shape)


def _parts(tiles: Tensor, outputs: int) -> list[slice]:
    """Return slices of the output channels whose filters and products fit into a CPU cache."""
    size = max(16, CACHE // (len(tiles) * max(tiles.shape[1:])))
    return [slice(start, start + size) for start in range(0, outputs, size)]


def _sides(values: Tensor) -> Tensor:
    """Reshape (q², …) to (q, q, …)."""
    side = math.isqrt(len(values))
    return values.view(side, side, *values.shape[1:])


def _both(matrix: Tensor, values: Tensor) -> Tensor:
    """Multiply both of the first two dimensions of values (q, q, …) by a matrix (p, q)."""
    if len(matrix) == matrix.shape[1] == 3:
        return values  # F(1 × 1, 3 × 3): the identity
    matrix = matrix.to(values)
    rows = matrix @ values.flatten(1)
    both = torch.matmul(matrix, rows.view(len(matrix), matrix.shape[1], -1))
    return both.view(len(matrix), len(matrix), *values.shape[2:])


def _input_tiles(x: Tensor, m: int) -> Tensor:
    """Return overlapping tiles of x (B, C, h, w), transformed, ((m + 2)², tiles, C)."""
    height, width = x.shape[2:]
    below, right = -height % m + 1, -width % m + 1
    padded = F.pad(x.movedim(1, -1), (0, 0, 1, right, 1, below))
    tiles = padded.unfold(1, m + 2, m).unfold(2, m + 2, m).permute(4, 5, 0, 1, 2, 3)
    return _both(_INPUT[m], tiles.contiguous()).view((m + 2) ** 2, -1, x.shape[1])


def _fold(gradient: Tensor, shape: torch.Size, m: int) -> Tensor:
    """Return the gradient of x (B, C, h, w) from that of `_input_tiles`."""
    images, channels, height, width = shape
    rows, columns, side = -(-height // m), -(-width // m), m + 2
    tiles = _both(_INPUT[m].T, gradient.view(side, side, images, rows, columns, channels))
    padded = tiles.new_zeros(images, rows * m + 2, columns * m + 2, channels)
    for i in range(side):
        for j in range(side):
            padded[:, i : i + rows * m : m, j : j + columns * m : m] += tiles[i, j]
    return padded[:, 1 : height + 1, 1 : width + 1].movedim(-1, 1)


def _write_maps(products: Tensor, out: Tensor, m: int) -> None:
    """Write maps (B, h, w, O) from products ((m + 2)², tiles, O)."""
    images, height, width, outputs = out.shape
    if m == 1:
        out.copy_(products.sum(0).view(out.shape))
        return
    tiles = _both(_OUTPUT, _sides(products))
    tiles = tiles.view(m, m, images, -(-height // m), -(-width // m), outputs)
    tiles = tiles.permute(2, 3, 0, 4, 1, 5)
    out.copy_(tiles.flatten(3, 4).flatten(1, 2)[:, :height, :width])


def _product_gradient(gradient: Tensor, m: int) -> Tensor:
    """Return the gradient ((m + 2)², tiles, O) of products from that of maps (B, h, w, O)."""
    images, height, width, outputs = gradient.shape
    if m == 1:
        return gradient.reshape(1, -1, outputs).expand(9, -1, -1)
    padded = F.pad(gradient, (0, 0, 0, -width % m, 0, -height % m))
    tiles = padded.view(images, -(-height // m), m, -(-width // m), m, outputs)
    tiles = tiles.permute(2, 4, 0, 1, 3, 5)
    return _both(_OUTPUT.T, tiles.contiguous()).view((m + 2) ** 2, -1, outputs)


def _inside(x: Tensor) -> Tensor:
    """Return which taps fall inside maps x (B, C, h, w) at each position, 0 or 1, (9, h · w)."""
    return F.unfold(x.new_ones(1, 1, *x.shape[2:]), 3, padding=1)[0]
