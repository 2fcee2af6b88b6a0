"""The flow of one level: blocks of actnorm → coupling, with a mixing between blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from FrEIA.framework import SequenceINN
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn import distributed
from vqlab.nn.flow.blocks import ActNorm, Coupling, Mixing, MixingName, affine


class LevelFlow(nn.Module):
    """A conditional flow of one level's features; the paper's has 2, 5 and 8 blocks (ours: 8).

    kernel 1 works on rows x (N, C) with condition (N, D) → z (N, C), log_det (N,): positions are
    independent, so that it may train on any of them. kernel 3 works on maps x (B, C, h, w) with
    condition (B, D, h, w) → z alike, log_det (B,). condition_dim 0: no condition. One layer turns
    the condition into what every coupling's hidden layer adds. `norm`: layer norm in the subnets,
    as in the paper. `seed` decides the mixings; see `Mixing` for `mixing` and `rank`. Blocks take
    turns in which half of the channels they change.

    The actnorms are fitted by `initialise`, or at the first forward in training. Everything but
    the subnets' layers is computed in float32 (or wider) under any autocast.
    """

    initialised: Tensor

    def __init__(
        self,
        channels: int,
        condition_dim: int,
        *,
        blocks: int = 8,
        hidden: int = 128,
        kernel: int = 1,
        clamp: float = 1.9,
        mixing: MixingName = "orthogonal",
        rank: int = 64,
        norm: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(channels, blocks, kernel, clamp)
        maps = kernel > 1
        dims = (channels, 1, 1) if maps else (channels,)  # convolutions take any height and width
        self.condition = (
            affine(condition_dim, blocks * hidden, kernel, maps=maps) if condition_dim else None
        )
        self.blocks = blocks
        generator = torch.Generator().manual_seed(seed)
        self.sequence = SequenceINN(*dims)
        for block in range(blocks):
            if block:
                self.sequence.append(Mixing, kind=mixing, generator=generator, rank=rank)
            self.sequence.append(ActNorm)
            self.sequence.append(
                Coupling,
                cond=block if condition_dim else None,
                cond_shape=(hidden, *dims[1:]) if condition_dim else None,
                hidden=hidden, kernel=kernel, clamp=clamp, norm=norm, flip=bool(block % 2),
            )  # fmt: skip
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent z, shaped as x, and log_det, one per row or image."""
        if self.training and not self.initialised:
            self.initialise(x, condition)
        return self._run(x, condition, rev=False)

    def inverse(self, z: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The x whose latent is z, and the log_det of that step: minus that of `forward` at x."""
        return self._run(z, condition, rev=True)

    @torch.no_grad()
    def initialise(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Fit every actnorm to what reaches it of these features (all ranks' together)."""
        x = distributed.gather_rows(_wide(x))
        offsets = self._offsets(None if condition is None else distributed.gather_rows(condition))
        for step, index in zip(self.sequence, self.sequence.conditions, strict=True):
            if isinstance(step, ActNorm):
                step.fit(x)
            (x,), _ = step((x,), () if index is None else (offsets[index],))
        self.initialised.fill_(True)

    def _run(self, x: Tensor, condition: Tensor | None, rev: bool) -> tuple[Tensor, Tensor]:
        out, log_det = self.sequence(_wide(x), self._offsets(condition), rev=rev)
        return out, log_det

    def _offsets(self, condition: Tensor | None) -> Sequence[Tensor]:
        """What the condition adds to each block's hidden layer."""
        if self.condition is None:
            return ()
        if condition is None:
            raise ValueError("a flow with a condition_dim must be given a condition; got none.")
        offsets: Sequence[Tensor] = self.condition(condition).chunk(self.blocks, 1)
        return offsets


def _wide(x: Tensor) -> Tensor:
    """Float32 for half precision: a latent must not lose what the log_det counts."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _check(channels: int, blocks: int, kernel: int, clamp: float) -> None:
    if channels < 2:
        raise UserError(f"a flow must have at least 2 channels, to couple halves; got {channels}.")
    if blocks < 1:
        raise UserError(f"a flow must have at least 1 block; got {blocks}.")
    if kernel < 1 or kernel % 2 == 0:
        raise UserError(
            f"the kernel of a flow must be an odd number, such as 1 or 3; got {kernel}."
        )
    if not clamp > 0:
        raise UserError(f"the clamp of a flow must be above 0; got {clamp}.")
