"""A flow of rows folded for scoring on a CPU: three matrix products per block, no log_det."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqlab.nn.flow.blocks import Coupling
from vqlab.nn.flow.steps import Steps

ROWS = 256
"""Rows that pass through all blocks at once; chosen so that they fit into a CPU cache."""


class FoldedFlow:
    """Latents of a sequence of couplings with affine steps between them, computed from its weights.

    The steps before a coupling are one product, whose columns are the coupling's active channels
    [x2], then its passive ones [x1]. The first layer of the subnet and its condition are one
    product of [x1; condition]. With k = 2 · clamp / ln 2 the scale exp(clamp · tanh(u / clamp)) is
    2 ** (k · sigmoid(2 · u / clamp) − k / 2), which has faster functions; constant factors are in
    the matrices. The bias of an additive coupling is part of the steps before it. All folding is
    in float64. Later changes of the weights have no effect.
    """

    def __init__(self, sequence: Steps, condition: nn.Linear | None) -> None:
        """condition: layer that computes the conditions of all couplings."""
        sequence = copy.deepcopy(sequence).double()
        self._blocks = list(_fold(sequence, condition))
        *_, self._last = (step for step in sequence if isinstance(step, Coupling))

    @staticmethod
    def supports(sequence: Steps) -> bool:
        """Whether all layers are linear, in float32 and without norm."""
        couplings = [step for step in sequence if isinstance(step, Coupling)]
        return all(
            isinstance(step.first, nn.Linear)
            and step.first.weight.dtype == torch.float32
            and isinstance(step.norm, nn.Identity)
            for step in couplings
        )

    @torch.no_grad()
    def __call__(self, rows: Tensor, condition: Tensor | None) -> Tensor:
        """Return the latents (N, C) of rows (N, C), given the condition (N, D)."""
        channels = rows.shape[1]
        width = channels + (0 if condition is None else condition.shape[1])
        hidden, both = self._blocks[0].last.matrix.shape
        size = min(ROWS, len(rows))
        buffers = [rows.new_empty(size, length) for length in (width, width, hidden, both)]
        z = torch.empty_like(rows)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            fitting = [buffer[: len(z[part])] for buffer in buffers]
            if condition is not None:
                for buffer in fitting[:2]:
                    buffer[:, channels:] = condition[part]
            self._run(rows[part], fitting, z[part])
        return z

    def _run(self, x: Tensor, buffers: list[Tensor], z: Tensor) -> None:
        """Write the latents of x (n, C) to z (n, C). The first two buffers hold [x2; x1; condition]
        of a block in turn."""
        hidden, output = buffers[2:]
        for number, block in enumerate(self._blocks):
            state = buffers[number % 2]
            block.steps.apply(x, state[:, : x.shape[1]])
            active = state[:, : block.active]
            block.first.apply(state[:, block.active :], hidden).relu_()
            if block.rate:
                scale, shift = block.last.apply(hidden, output).chunk(2, 1)
                scale.sigmoid_().mul_(block.rate).exp2_()
                torch.addcmul(shift, active, scale, out=active)
            else:
                active.addmm_(hidden, block.last.matrix)
            x = state[:, : x.shape[1]]
        passive, active = self._last.halves(z)
        active.copy_(x[:, : active.shape[1]])
        passive.copy_(x[:, active.shape[1] :])


class _Affine(NamedTuple):
    """x · matrix + bias."""

    matrix: Tensor
    bias: Tensor

    def apply(self, x: Tensor, out: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.matrix, out=out)


class _Block(NamedTuple):
    steps: _Affine
    first: _Affine
    last: _Affine
    active: int
    """Number of active channels."""
    rate: float
    """k; 0 of an additive coupling, whose `last` has no bias."""


@torch.no_grad()
def _fold(sequence: Steps, condition: nn.Linear | None) -> Iterator[_Block]:
    """Yield the folded blocks of a sequence in float64."""
    channels = sequence.dims[0]
    state = torch.eye(channels + 1, channels, dtype=torch.float64)  # the last row is the bias
    number = 0
    for step in sequence:
        if not isinstance(step, Coupling):
            (state,), _ = step((state,))
            continue
        order = torch.cat([*reversed(step.halves(torch.arange(channels)[None]))], 1)[0]
        subnet, output = step.first, step.last
        assert isinstance(subnet, nn.Linear) and isinstance(output, nn.Linear)
        rate = 0.0 if step.additive else 2 * step.clamp / math.log(2)
        state = state[:, order]
        state[:, : step.active] *= 2 ** (-rate / 2)
        first: Tensor = subnet.weight.T
        bias: Tensor = subnet.bias
        if condition is not None:
            units = slice(number * len(first.T), (number + 1) * len(first.T))
            first = torch.cat([first, condition.weight[units].double().T])
            bias = condition.bias[units]
        last, last_bias = output.weight.T.clone(), output.bias.clone()
        if step.additive:
            state[:, : step.active] += last_bias
            last_bias.zero_()
        else:
            for scales in (last, last_bias[None]):
                scales[:, : step.active] *= 2 / step.clamp
        yield _Block(
            _affine(state[:-1] - state[-1:], state[-1]),
            _affine(first, bias),
            _affine(last, last_bias),
            step.active,
            rate,
        )
        state = torch.eye(channels + 1, channels, dtype=torch.float64)
        state[:channels] = state[order]
        number += 1


def _affine(matrix: Tensor, bias: Tensor) -> _Affine:
    return _Affine(matrix.float().contiguous(), bias.float().contiguous())
