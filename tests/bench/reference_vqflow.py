"""The published arithmetic of VQ-Flow's flows (arXiv 2409.00942), the reference of `vqflow_head`.

The same function as the paper recipe of `vqflow`, computed as in the published code: every subnet
convolves [x1; condition] densely, with all condition channels, and every permutation is a product
with a dense matrix (FrEIA's AllInOneBlock). The rest of the head, 5 to 7 % of a step, is ours.
"""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.detectors.vqflow import VQFlow
from vqlab.nn.flow import ActNorm, Coupling, LevelFlow, Mixing


class Block(nn.Module):
    """Affine per channel, coupling conditioned on a map, and multiplication by a dense matrix."""

    def __init__(self, coupling: Coupling, condition: int, channels: int) -> None:
        super().__init__()
        self.flip, self.clamp = coupling.flip, coupling.clamp
        self.passive, self.active = coupling.passive, coupling.active
        hidden = coupling.last.weight.shape[2]
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.first = nn.Conv2d(self.passive + condition, hidden, 3, padding=1)
        self.norm = deepcopy(coupling.norm)
        self.last = nn.Conv2d(hidden, 2 * self.active, 3, padding=1)
        self.register_buffer("matrix", torch.eye(channels)[:, :, None, None])

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        x = x * self.log_scale.exp() + self.shift
        log_det = self.log_scale.sum() * x[0, 0].numel()
        sizes = [self.active, self.passive] if self.flip else [self.passive, self.active]
        x1, x2 = reversed(x.split(sizes, 1)) if self.flip else x.split(sizes, 1)
        hidden = F.relu(self.norm(self.first(torch.cat([x1, condition], 1))))
        log_scale, shift = self.last(hidden).chunk(2, 1)
        log_scale = self.clamp * torch.tanh(log_scale / self.clamp)
        x2 = x2 * log_scale.exp() + shift
        x = torch.cat([x2, x1] if self.flip else [x1, x2], 1)
        return F.conv2d(x, self.get_buffer("matrix")), log_det + log_scale.sum((1, 2, 3))


class DenseFlow(nn.Module):
    """The function of a `LevelFlow` of maps with a condition, with its weights."""

    def __init__(self, flow: LevelFlow, condition: int) -> None:
        super().__init__()
        steps = list(flow.sequence)
        couplings = [step for step in steps if isinstance(step, Coupling)]
        channels = couplings[0].passive + couplings[0].active
        self.blocks = nn.ModuleList(Block(step, condition, channels) for step in couplings)
        self.load(flow)

    @torch.no_grad()
    def load(self, flow: LevelFlow) -> None:
        """Copy the weights of a flow."""
        assert flow.condition is not None
        shared = flow.condition.state_dict()
        weights = shared["weight"].chunk(flow.blocks, 0)
        biases = shared["bias"].chunk(flow.blocks, 0)
        number = 0
        for step in flow.sequence:
            block = self.blocks[number]
            assert isinstance(block, Block)
            if isinstance(step, ActNorm):
                block.log_scale.copy_(step.log_scale[:, None, None])
                block.shift.copy_(step.shift[:, None, None])
            elif isinstance(step, Coupling):
                split_weight = step.first.state_dict()["weight"]
                block.first.weight.copy_(torch.cat([split_weight, weights[number]], 1))
                assert block.first.bias is not None
                block.first.bias.copy_(biases[number])
                block.norm.load_state_dict(step.norm.state_dict())
                block.last.load_state_dict(step.last.state_dict())
                number += 1
            elif isinstance(step, Mixing):
                (mixed,), _ = step((torch.eye(len(block.matrix)),))
                self.blocks[number - 1].get_buffer("matrix").copy_(mixed.T[:, :, None, None])

    def forward(
        self, x: Tensor, condition: Tensor, constant: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if constant is not None:
            expanded = constant[:, :, None, None].expand(-1, -1, *x.shape[2:])
            condition = torch.cat([condition, expanded], 1)
        x, condition = x.contiguous(), condition.contiguous()
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            x, term = block(x, condition)
            log_det = log_det + term
        return x, log_det


def with_published_arithmetic(detector: VQFlow) -> VQFlow:
    """Return the detector with its flows replaced by equal ones of the published arithmetic.

    The actnorms must have been fitted, or stay at the identity.
    """
    for level in detector.levels:
        level.flow = DenseFlow(level.flow, level.condition.width)
    return detector
