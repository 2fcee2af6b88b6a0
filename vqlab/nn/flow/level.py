"""Flow of one level: blocks of actnorm and coupling, with a mixing between blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.nn import distributed
from vqlab.nn.base_density import at_least_float32
from vqlab.nn.flow.blocks import ActNorm, Coupling, CouplingOptions, Mixing, MixingName, affine
from vqlab.nn.flow.folded import FoldedFlow
from vqlab.nn.flow.steps import Steps
from vqlab.nn.latch import latched, reset_on_load


class LevelFlow(nn.Module):
    """Conditional flow of the features of one level.

    options: of the couplings. With kernel 1: rows x (N, C) and condition (N, D) → z (N, C),
    log_det (N,); positions are independent, so that any subset can be used in training. With kernel
    3: maps x (B, C, h, w) and condition (B, D, h, w) → z of that shape, log_det (B,); the last
    channels of the condition may be given as `constant`, vectors (B, D') that are equal at every
    position. condition_dim 0: no condition; else a single layer computes the conditions of all
    couplings.
    mixing, rank: see `Mixing`; seed: of the mixings. Blocks alternate between the halves of the
    channels.

    The actnorms are fitted by `initialise`, or in the first training step. Except in the layers of
    the subnets, computations are in float32 (or wider) regardless of autocast.
    """

    initialised: Tensor

    def __init__(
        self,
        channels: int,
        condition_dim: int,
        options: CouplingOptions,
        *,
        blocks: int = 8,
        mixing: MixingName = "orthogonal",
        rank: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check(channels, blocks, options)
        hidden, maps = options.hidden, options.kernel > 1
        dims = (channels, 1, 1) if maps else (channels,)  # convolutions take any height and width
        self.condition = (
            affine(condition_dim, blocks * hidden, options.kernel, maps=maps)
            if condition_dim
            else None
        )
        self.blocks = blocks
        generator = torch.Generator().manual_seed(seed)
        self.sequence = Steps(dims)
        for block in range(blocks):
            if block:
                mix = Mixing([dims], kind=mixing, generator=generator, rank=rank)
                self.sequence.append(mix)
            self.sequence.append(ActNorm([dims]))
            coupling = Coupling(
                [dims],
                [(hidden, *dims[1:])] if condition_dim else None,
                options=options,
                flip=bool(block % 2),
            )
            self.sequence.append(coupling, block if condition_dim else None)
        self.register_buffer("initialised", torch.tensor(False))
        self._folded: FoldedFlow | None = None
        reset_on_load(self)
        self.register_load_state_dict_post_hook(_unfold)  # type: ignore[no-untyped-call]

    def forward(
        self, x: Tensor, condition: Tensor | None = None, constant: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return latents z, shaped as x, and log_det per row or image."""
        if self.training and not latched(self, "initialised", lambda: bool(self.initialised)):
            self.initialise(x, condition, constant)
        return self._run(x, self._offsets(condition, constant), rev=False)

    def latents(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the latents of `forward` in evaluation mode, without gradient; kernel 1.

        On a CPU the weights are folded at the first call after `train` and `load_state_dict`: other
        changes of the weights have no effect before one of these is called. Equal to `forward` up
        to rounding.
        """
        layer = self.condition
        linear = layer is None or isinstance(layer, nn.Linear)
        foldable = linear and x.dtype == torch.float32 and FoldedFlow.supports(self.sequence)
        if not (x.is_cpu and foldable):
            return self.forward(x, condition)[0]
        if self._folded is None:
            assert layer is None or isinstance(layer, nn.Linear)
            self._folded = FoldedFlow(self.sequence, layer)
        return self._folded(x, condition)

    def train(self, mode: bool = True) -> LevelFlow:
        if mode:
            self._folded = None
        return super().train(mode)

    def inverse(
        self, z: Tensor, condition: Tensor | None = None, constant: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the x that `forward` maps to z, and the log_det of the inverse."""
        return self._run(z, self._offsets(condition, constant), rev=True)

    @torch.no_grad()
    def initialise(
        self, x: Tensor, condition: Tensor | None = None, constant: Tensor | None = None
    ) -> None:
        """Fit every actnorm to its input for these features (of all ranks)."""
        x = distributed.gather_rows(at_least_float32(x))
        condition, constant = (
            None if rows is None else distributed.gather_rows(rows)
            for rows in (condition, constant)
        )
        offsets, self._folded = self._offsets(condition, constant), None
        for step, index in zip(self.sequence, self.sequence.conditions, strict=True):
            if isinstance(step, ActNorm):
                step.fit(x)
            (x,), _ = step((x,), () if index is None else (offsets[index],))
        self.initialised.fill_(True)

    def _run(self, x: Tensor, offsets: Sequence[Tensor], rev: bool) -> tuple[Tensor, Tensor]:
        out, log_det = self.sequence(at_least_float32(x), offsets, rev)
        return out, log_det

    def _offsets(self, condition: Tensor | None, constant: Tensor | None) -> Sequence[Tensor]:
        """Return the conditions of all blocks."""
        if self.condition is None:
            return ()
        if condition is None:
            raise ValueError("a flow with a condition_dim needs a condition; got None.")
        inputs = (condition,) if constant is None else (condition, constant)
        offsets: Sequence[Tensor] = self.condition(*inputs).chunk(self.blocks, 1)
        return offsets


def _unfold(flow: LevelFlow, _: object) -> None:
    """Hook of `load_state_dict`; a function of a module, so that flows can be pickled."""
    flow._folded = None


def _check(channels: int, blocks: int, options: CouplingOptions) -> None:
    kernel, clamp = options.kernel, options.clamp
    if channels < 2:
        raise UserError(f"a flow must have at least 2 channels; got {channels}.")
    if blocks < 1:
        raise UserError(f"a flow must have at least 1 block; got {blocks}.")
    if kernel < 1 or kernel % 2 == 0:
        raise UserError(
            f"the kernel of a flow must be an odd number, such as 1 or 3; got {kernel}."
        )
    if not clamp > 0:
        raise UserError(f"the clamp of a flow must be above 0; got {clamp}.")
