"""The invertible steps of a flow, modules with the interface of FrEIA's `InvertibleModule`.

All take channels at dimension 1: rows (N, C), whose log_det is (N,), or maps (B, C, h, w), whose
log_det (B,) sums over positions. FrEIA's calling convention: `module((x,), (condition,), rev=…)`
→ `((z,), log_det)`, and with `rev` the log_det of the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.convolution import Conv3x3
from vqlab.nn.precision import without_autocast

Dims = Sequence[tuple[int, ...]]
CouplingName = Literal["affine", "additive"]
MixingName = Literal["orthogonal", "reflection", "permutation"]
Step = tuple[tuple[Tensor], Tensor | float]


@dataclass(frozen=True)
class CouplingOptions:
    """The subnet of a coupling, and the range of its scale."""

    hidden: int
    """Width of the hidden layer."""
    kernel: int = 1
    """Kernel size of the layers; above 1: maps only."""
    clamp: float = 1.9
    """Bound of the absolute log scale."""
    norm: bool = False
    """Layer norm of the hidden channels, as in the paper."""
    kind: CouplingName = "affine"
    """`additive`: no scale; the Jacobian determinant is 1 (Dinh et al. 2015)."""


class Coupling(nn.Module):
    """Conditional coupling: one half of the channels scales and shifts the other half.

    x2 ← x2 · exp(s) + t, where (s, t) is the output of a two-layer subnet of x1 and |s| < clamp by
    the soft clamp clamp · tanh(·/clamp) (Dinh et al. 2017; Ardizzone et al. 2019); s is 0 in an
    additive coupling. The condition is added to the hidden layer, (N, hidden) or (B, hidden, h, w):
    the first layer of [x1; condition] is split, so that the caller can compute the conditions of
    all blocks at once. The last layer is initialised to zero: the block is the identity. flip: x1
    is the second half. Scale, shift and log_det have the dtype of x regardless of autocast.
    """

    def __init__(
        self,
        dims_in: Dims,
        dims_c: Dims | None = None,
        *,
        options: CouplingOptions,
        flip: bool = False,
    ) -> None:
        super().__init__()
        channels, maps = dims_in[0][0], len(dims_in[0]) == 3
        self.active = channels // 2
        self.passive = channels - self.active
        self.flip = flip
        self.clamp, hidden, kernel = options.clamp, options.hidden, options.kernel
        self.additive = options.kind == "additive"
        self.first = affine(self.passive, hidden, kernel, maps=maps, bias=not dims_c)
        self.norm = ChannelNorm(hidden) if options.norm else nn.Identity()
        outputs = self.active if self.additive else 2 * self.active
        self.last = affine(hidden, outputs, kernel, maps=maps)
        init_zeros(self.last)

    def forward(
        self, x: Sequence[Tensor], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> Step:
        x1, x2 = self.halves(x[0])
        hidden = self.first(x1)
        if c:
            hidden = hidden + c[0]
        x2, log_det = self._transform(x2, self.last(F.relu(self.norm(hidden))), rev)
        halves = [x2, x1] if self.flip else [x1, x2]
        return (torch.cat(halves, 1),), log_det

    def _transform(self, x2: Tensor, output: Tensor, rev: bool) -> tuple[Tensor, Tensor]:
        """Return the new x2 and log_det, given the output of the subnet."""
        if self.additive:
            shift = output.to(x2.dtype)
            return x2 - shift if rev else x2 + shift, x2.new_zeros(len(x2))
        log_scale, shift = scale_and_shift(output, self.clamp, x2)
        log_det = log_scale.flatten(1).sum(1)
        if rev:
            return (x2 - shift) * torch.exp(-log_scale), -log_det
        return torch.addcmul(shift, x2, torch.exp(log_scale)), log_det

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the passive x1 and the active x2."""
        if self.flip:
            x2, x1 = torch.split(x, [self.active, self.passive], 1)
        else:
            x1, x2 = torch.split(x, [self.passive, self.active], 1)
        return x1, x2

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return input_dims


class ActNorm(nn.Module):
    """Learned scale and shift per channel, initialised by `fit` (Kingma & Dhariwal 2018)."""

    def __init__(self, dims_in: Dims) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dims_in[0][0]))
        self.shift = nn.Parameter(torch.zeros(dims_in[0][0]))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Normalise x to mean 0 and standard deviation 1 per channel.

        Deviations are clamped below at 5 % of their median; if that is 0 (a single row), nothing is
        scaled.
        """
        rows = x.movedim(1, -1).flatten(0, -2)
        deviation = rows.std(0, correction=0)
        floor = 0.05 * deviation.median()
        deviation = deviation.clamp_min(floor) if floor > 0 else torch.ones_like(deviation)
        self.log_scale.copy_(-deviation.log())
        self.shift.copy_(-rows.mean(0) / deviation)

    def forward(
        self, x: Sequence[Tensor], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> Step:
        (x0,) = x
        shape = (1, -1) + (1,) * (x0.ndim - 2)
        log_scale, shift = self.log_scale.view(shape), self.shift.view(shape)
        log_det = self.log_scale.sum() * x0[0, 0].numel()
        if rev:
            return ((x0 - shift) * torch.exp(-log_scale),), -log_det
        return (torch.addcmul(shift, x0, torch.exp(log_scale)),), log_det

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return input_dims


class Mixing(nn.Module):
    """Fixed random mixing of the channels; log_det 0.

    kind: `orthogonal`, a random orthogonal matrix (C² products per position); `reflection`,
    I − 2VVᵀ with V spanning a random subspace of dimension `rank`, its own inverse (2 · C · rank
    products); `permutation`. Computed in the dtype of x regardless of autocast.
    """

    matrix: Tensor
    order: Tensor
    back: Tensor

    def __init__(
        self,
        dims_in: Dims,
        *,
        kind: MixingName,
        generator: torch.Generator,
        rank: int = 64,
    ) -> None:
        super().__init__()
        channels = dims_in[0][0]
        self.kind = kind
        if kind == "permutation":
            order = torch.randperm(channels, generator=generator)
            self.register_buffer("order", order)
            self.register_buffer("back", order.argsort())
        else:
            matrix = random_orthogonal(channels, generator)
            if kind == "reflection":
                matrix = matrix[:, : min(rank, channels // 2)].contiguous()
            self.register_buffer("matrix", matrix)

    def forward(
        self, x: Sequence[Tensor], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> Step:
        (x0,) = x
        if self.kind == "permutation":
            orders = (self.back, self.order) if rev else (self.order, self.back)
            return (permute(x0, *orders),), 0.0
        with without_autocast(x0.device):
            if x0.ndim == 2:
                return (self._multiply(x0, rev),), 0.0
            return (self._multiply(x0.movedim(1, -1), rev).movedim(-1, 1),), 0.0

    def _multiply(self, x: Tensor, rev: bool) -> Tensor:
        if self.kind == "orthogonal":
            return x @ (self.matrix.T if rev else self.matrix)
        if x.ndim == 2:
            return torch.addmm(x, x @ self.matrix, self.matrix.T, alpha=-2)
        return x - 2 * (x @ self.matrix) @ self.matrix.T

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return input_dims


class _Permute(torch.autograd.Function):
    """index_select with a faster gradient: the inverse selection instead of a scattered sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.orders = order, back
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, back = ctx.orders
        return permute(gradient, back, order), None, None


def permute(x: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Permute the channels of x by `order`; `back` is its inverse."""
    permuted: Tensor = _Permute.apply(x, order, back)
    return permuted


def random_orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """Return a uniformly distributed orthogonal matrix (size, size) (Stewart 1980)."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix: Tensor = q * r.diagonal().sign()
    return matrix.to(torch.get_default_dtype()).contiguous()


class ChannelNorm(nn.Module):
    """Layer norm over the channels (dimension 1) at every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return normed


def affine(inputs: int, outputs: int, kernel: int, *, maps: bool, bias: bool = True) -> nn.Module:
    """Return a linear layer for rows, or a convolution for maps that preserves their size."""
    if maps and kernel == 3:
        return Conv3x3(inputs, outputs, bias)
    if maps:
        return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
    if kernel != 1:
        raise UserError(f"a flow of rows must have kernel 1; got {kernel}; use maps.")
    return nn.Linear(inputs, outputs, bias=bias)


def init_zeros(layer: nn.Module) -> None:
    """Initialise all parameters to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def scale_and_shift(output: Tensor, clamp: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return log scale (within ± clamp) and shift from the halves of a subnet's output."""
    log_scale, shift = output.to(like.dtype).chunk(2, 1)
    return clamp * torch.tanh(log_scale / clamp), shift
