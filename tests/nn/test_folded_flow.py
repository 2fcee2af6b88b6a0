"""A folded flow has the latents of the original flow and follows its weights."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from vqlab.nn.flow import CouplingName, CouplingOptions, LevelFlow, MixingName

PROGRAM = """
import sys
import torch
from vqlab.nn.flow import CouplingOptions, LevelFlow

flow, rows = LevelFlow(4, 0, CouplingOptions(6)).eval(), torch.zeros(2, 4)
for method in (flow.latents, flow.forward):
    method(rows)
    print("FrEIA" in sys.modules)
"""


def flow_of(
    channels: int,
    condition: int,
    mixing: MixingName,
    blocks: int,
    seed: int,
    kind: CouplingName = "affine",
) -> LevelFlow:
    torch.manual_seed(seed)
    options = CouplingOptions(24, kind=kind)
    flow = LevelFlow(channels, condition, options, blocks=blocks, mixing=mixing)
    with torch.no_grad():
        for weight in flow.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return flow.eval()


def inputs(channels: int, condition: int) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(600, channels, generator=generator)
    return rows, torch.randn(600, condition, generator=generator) if condition else None


@torch.no_grad()
def relative_difference(flow: LevelFlow, rows: Tensor, condition: Tensor | None) -> float:
    """Return the relative difference of `latents` from the flow in float64."""
    wide = copy.deepcopy(flow).double()
    z = wide(rows.double(), None if condition is None else condition.double())[0]
    return float((flow.latents(rows, condition) - z).norm() / z.norm())


@pytest.mark.parametrize("kind", ["affine", "additive"])
@pytest.mark.parametrize("mixing", ["orthogonal", "reflection", "permutation"])
@pytest.mark.parametrize(("channels", "condition", "blocks"), [(16, 6, 8), (7, 5, 3), (10, 0, 1)])
def test_latents_equal_those_of_the_flow(
    kind: CouplingName, mixing: MixingName, channels: int, condition: int, blocks: int
) -> None:
    flow = flow_of(channels, condition, mixing, blocks, seed=0, kind=kind)
    rows, vectors = inputs(channels, condition)
    with torch.no_grad():
        assert float((flow(rows, vectors)[0] - rows).abs().max()) > 0.1  # away from the identity
    assert relative_difference(flow, rows, vectors) < 1e-5


def test_latents_follow_the_weights() -> None:
    flow, other = (flow_of(8, 4, "orthogonal", 4, seed) for seed in (0, 1))
    rows, condition = inputs(8, 4)
    before = flow.latents(rows, condition)
    for same in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(same.latents(rows, condition), before)
    flow.load_state_dict(other.state_dict())
    assert torch.equal(flow.latents(rows, condition), other.latents(rows, condition))
    flow.train()
    with torch.no_grad():
        for weight in flow.parameters():
            weight *= 1.1
    flow.eval()
    assert relative_difference(flow, rows, condition) < 1e-5
    assert not torch.equal(flow.latents(rows, condition), other.latents(rows, condition))


def test_latents_do_not_import_freia() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr
