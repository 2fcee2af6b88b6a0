"""Chains of recorded operations computed at once: which they are, and that levels stay the same."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vqlab.config import validate
from vqlab.features import Backbone, FeatureSettings
from vqlab.features.fused import find_chains
from vqlab.features.recording import Record, RecordedNetwork, fuse, record_network

SIDE = 96


def images(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))


def built(name: str) -> Backbone:
    """A network whose batch norms are not the identity."""
    values = {"backbone": name, "weights": "random"}
    backbone = Backbone(validate(FeatureSettings, values, "features."), SIDE)
    generator, state = torch.Generator().manual_seed(3), backbone.state_dict()
    for key in list(state):
        if key.endswith("running_var"):
            stem = key.removesuffix("running_var")
            for name, lowest in (("mean", -0.5), ("var", 0.5)):
                state[f"{stem}running_{name}"].uniform_(lowest, lowest + 1, generator=generator)
            for name, lowest in (("weight", 0.5), ("bias", 0.0)):
                state[stem + name].uniform_(lowest, lowest + 1, generator=generator)
    return Backbone(backbone.settings, SIDE, state, backbone.record())


def unfused(backbone: Backbone) -> Backbone:
    record = {**(backbone.record() or {}), "fused": False}
    return Backbone(backbone.settings, SIDE, backbone.state_dict(), record)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet26", "mobilenetv2_100", "hrnet_w18_small", "test_efficientnet", "vgg11_bn"],
)
def test_levels_differ_by_rounding(name):
    fused = built(name)
    plain = unfused(fused)
    assert fused.record()["fused"] and not plain.record()["fused"]
    assert fused.key != plain.key
    for a, b in zip(fused.network(images()), plain.network(images()), strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < 2e-5
    assert all(
        torch.equal(a, b)
        for a, b in zip(fused.network(images(2)), plain.network(images(2)), strict=True)
    )  # several images are not fused


def test_chains_of_a_residual_block():
    record = Record.model_validate(built("resnet18").record())
    chains = find_chains(record.operations, record.outputs)
    assert [len(chain.numbers) for chain in chains[:3]] == [3, 3, 4]
    assert all(chain.norm == chain.convolution + 1 for chain in chains)
    numbers = [number for chain in chains for number in chain.numbers]
    assert len(set(numbers)) == len(numbers)
    others = {record.operations[n].function for n in range(53) if n not in numbers}
    assert others == {
        "torch.Tensor.contiguous", "torch.Tensor.sub", "torch.Tensor.div",
        "torch.nn.functional.max_pool2d",
    }  # fmt: skip


def test_a_loaded_copy_is_equal_bit_for_bit():
    source = built("resnet18")
    expected = source(images(2))
    record = json.loads(json.dumps(source.record()))
    loaded = Backbone(source.settings, SIDE, source.state_dict(), record)
    assert loaded.key == source.key
    for other in (loaded, copy.deepcopy(source), pickle.loads(pickle.dumps(source))):
        assert all(torch.equal(a, b) for a, b in zip(other(images(2)), expected, strict=True))


def test_thread_count_does_not_change_levels():
    backbone, before = built("resnet18"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = backbone(images())
        torch.set_num_threads(2)
        assert all(torch.equal(a, b) for a, b in zip(backbone(images()), one, strict=True))
    finally:
        torch.set_num_threads(before)


def test_a_new_state_dict_replaces_the_folded_weights():
    backbone, other = built("resnet18"), built("resnet18")
    first = backbone(images())[0]
    state = {k: 1.5 * v if "conv1" in k else v for k, v in backbone.state_dict().items()}
    backbone.load_state_dict(state)
    other.load_state_dict(state)
    second = backbone(images())[0]
    assert not torch.equal(first, second) and torch.equal(second, other(images())[0])


class Network(nn.Module):
    """Two convolutions, whose results are combined by the subclass."""

    levels = (0,)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8).eval()

    def forward(self, x):
        return [self.combine(self.first(x))]


class UsedTwice(Network):
    def combine(self, x):
        return self.norm(self.second(x)) + F.relu(x) * x


class ChangedInPlace(Network):
    def combine(self, x):
        y = self.second(x)
        x.mul_(2)  # after the convolution, before the sum
        return F.relu(y.add(x))


class ChangedBeforeNorm(Network):
    def combine(self, x):
        y = self.second(x)
        x.mul_(2)  # after the convolution, before its batch norm
        return self.norm(y) + x


class AddedToItself(Network):
    def combine(self, x):
        y = self.second(x)
        return F.relu(y + y)


class ScaledSum(Network):
    def combine(self, x):
        return F.relu(torch.Tensor.add(self.second(x), x, alpha=3))


class ReluFirst(Network):
    def combine(self, x):
        return self.norm(F.relu(self.second(x)))


@pytest.mark.parametrize(
    "kind", [UsedTwice, ChangedInPlace, ChangedBeforeNorm, AddedToItself, ScaledSum, ReluFirst]
)
def test_networks_that_are_not_chains(kind):
    torch.manual_seed(0)
    network = kind().to(memory_format=torch.channels_last)
    network.norm.running_mean.uniform_()
    with torch.no_grad():
        expected = network(images())[0]
        record = record_network(network)
        assert record is not None
        fused = fuse(record, network.state_dict(), SIDE)
        assert fused.fused
        actual = RecordedNetwork(fused, network.state_dict())(images())[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


class Cancelling(nn.Module):
    """A convolution whose terms cancel: its rounding errors are large, relative to its results.

    Maps have 1/16 of the sides of the images.
    """

    levels = (0,)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 1, stride=16)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        with torch.no_grad():
            self.first.bias.fill_(1000)
            self.second.weight[:, 1::2] = -self.second.weight[:, ::2]

    def forward(self, x):
        return [self.second(self.first(x))]


def test_networks_are_checked_at_the_size_of_the_images():
    """At 64 px the maps are too small for minimal filtering, at 256 px they are not."""
    torch.manual_seed(0)
    network = Cancelling().to(memory_format=torch.channels_last)
    with torch.no_grad():
        record = record_network(network)
    assert record is not None
    assert [fuse(record, network.state_dict(), side).fused for side in (64, 256)] == [True, False]
