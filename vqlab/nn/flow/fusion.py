"""Fusion flow: an affine coupling across the levels of a pyramid (VQ-Flow, MSFlow)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn.flow.blocks import (
    ChannelNorm,
    CouplingOptions,
    Dims,
    affine,
    init_zeros,
    permute,
    scale_and_shift,
)

Levels = Sequence[Tensor]


class FusionFlow(nn.Module):
    """Affine coupling of the latents (B, C_l, h_l, w_l) of all levels; initialised to the identity.

    The channels of each level are split into two random halves (`seed`). The first halves are
    scaled and shifted by a subnet of all second halves and the condition, then the second halves by
    one of the new first halves. dims_in: (C_l, h_l, w_l) of each level, finest first; dims_c:
    ((D, h, w),) of the coarsest level, or none; only the channels are used. The paper's options
    are kernel 3 and norm.
    FrEIA's convention: `fusion(latents, (condition,))` → (latents, log_det (B,)); `rev=True`
    inverts.
    """

    def __init__(
        self,
        dims_in: Dims,
        dims_c: Dims | None = None,
        *,
        options: CouplingOptions,
        seed: int = 0,
    ) -> None:
        super().__init__()
        channels = [dims[0] for dims in dims_in]
        if min(channels) < 2:
            raise UserError(f"every level of a fusion flow must have 2 channels; got {channels}.")
        generator = torch.Generator().manual_seed(seed)
        for level, count in enumerate(channels):
            order = torch.randperm(count, generator=generator)
            self.register_buffer(f"order{level}", order)
            self.register_buffer(f"back{level}", order.argsort())
        self.sizes = [[count - count // 2, count // 2] for count in channels]
        firsts, seconds = ([size[half] for size in self.sizes] for half in (0, 1))
        condition = dims_c[0][0] if dims_c else 0
        self.on_first = CrossLevel(seconds, firsts, condition, options)
        self.on_second = CrossLevel(firsts, seconds, condition, options)

    def forward(
        self, x: Levels, c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        firsts, seconds = self._split(x)
        if rev:
            seconds, det2 = _apply(seconds, self.on_second(firsts, c), rev)
            firsts, det1 = _apply(firsts, self.on_first(seconds, c), rev)
        else:
            firsts, det1 = _apply(firsts, self.on_first(seconds, c), rev)
            seconds, det2 = _apply(seconds, self.on_second(firsts, c), rev)
        return self._join(firsts, seconds), det1 + det2

    def inverse(self, z: Levels, c: Sequence[Tensor] = ()) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the latents that `forward` maps to z, and the log_det (B,) of the inverse."""
        return self.forward(z, c, rev=True)

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return input_dims

    def _orders(self, level: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"order{level}"), self.get_buffer(f"back{level}")

    def _split(self, levels: Levels) -> tuple[list[Tensor], list[Tensor]]:
        firsts, seconds = [], []
        for level, (x, sizes) in enumerate(zip(levels, self.sizes, strict=True)):
            order, back = self._orders(level)
            first, second = torch.split(permute(x, order, back), sizes, 1)
            firsts.append(first)
            seconds.append(second)
        return firsts, seconds

    def _join(self, firsts: Levels, seconds: Levels) -> tuple[Tensor, ...]:
        joined = []
        for level, halves in enumerate(zip(firsts, seconds, strict=True)):
            order, back = self._orders(level)
            joined.append(permute(torch.cat(halves, 1), back, order))
        return tuple(joined)


class CrossLevel(nn.Module):
    """Log scale and shift of every level from one half of the channels of all levels.

    The halves are resized to the coarsest level, concatenated with the condition and passed through
    two layers; the result is resized and added to each half, and a last layer, initialised to zero,
    returns scale and shift.
    """

    def __init__(
        self,
        inputs: list[int],
        outputs: list[int],
        condition: int,
        options: CouplingOptions,
    ) -> None:
        super().__init__()
        hidden, kernel = options.hidden, options.kernel
        self.inputs, self.clamp = inputs, options.clamp
        self.down = affine(sum(inputs) + condition, hidden, kernel, maps=True)
        self.norm = ChannelNorm(hidden) if options.norm else nn.Identity()
        self.up = affine(hidden, sum(inputs), kernel, maps=True)
        self.last = nn.ModuleList(
            affine(i, 2 * o, kernel, maps=True) for i, o in zip(inputs, outputs, strict=True)
        )
        init_zeros(self.last)

    def forward(self, halves: Levels, c: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        size = (halves[-1].shape[2], halves[-1].shape[3])
        joined = torch.cat([*(F.adaptive_avg_pool2d(half, size) for half in halves), *c], 1)
        hidden = F.relu(self.up(F.relu(self.norm(self.down(joined))))).to(halves[0].dtype)
        pairs = []
        for layer, half, part in zip(
            self.last, halves, torch.split(hidden, self.inputs, 1), strict=True
        ):
            part = F.interpolate(part, half.shape[2:], mode="bilinear", align_corners=False)
            pairs.append(scale_and_shift(layer(half + part), self.clamp, half))
        return pairs


def _apply(
    halves: Levels, pairs: Sequence[tuple[Tensor, Tensor]], rev: bool
) -> tuple[list[Tensor], Tensor]:
    transformed, log_det = [], torch.zeros_like(halves[0][:, 0, 0, 0])
    for half, (log_scale, shift) in zip(halves, pairs, strict=True):
        if rev:
            transformed.append((half - shift) * torch.exp(-log_scale))
        else:
            transformed.append(torch.addcmul(shift, half, torch.exp(log_scale)))
        log_det = log_det + log_scale.flatten(1).sum(1)
    return transformed, -log_det if rev else log_det
