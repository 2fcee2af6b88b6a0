"""A recorded network gives the levels of the network it was made of, without timm."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import torch

from vqlab.config import validate
from vqlab.features import Backbone, FeatureSettings
from vqlab.features.recording import RecordedNetwork
from vqlab.features.timm_network import TimmNetwork
from vqlab.types import UserError

SIDE = 64


def built(name: str = "test_resnet", size: int = SIDE) -> Backbone:
    values = {"backbone": name, "weights": "random"}
    return Backbone(validate(FeatureSettings, values, "features."), size)


def built_by_timm(name: str = "test_resnet") -> Backbone:
    """The backbone of a checkpoint without a record."""
    source = built(name)
    return Backbone(source.settings, SIDE, source.state_dict())


def recorded(backbone: Backbone, record: dict[str, Any] | None = None) -> Backbone:
    record = json.loads(json.dumps(record or backbone.record()))
    return Backbone(backbone.settings, backbone.image_size, backbone.state_dict(), record)


def same(a: Backbone, b: Backbone, *shape: int) -> bool:
    images = torch.rand(*shape, generator=torch.Generator().manual_seed(7))
    return all(torch.equal(x, y) for x, y in zip(a(images), b(images), strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "test_efficientnet",
        "test_convnext2",
        "resnet18",
        "mobilenetv2_100",
        "hrnet_w18_small",
    ],
)
def test_a_recorded_network_is_equal_bit_for_bit(name):
    source = built_by_timm(name)
    copied = recorded(source)
    assert isinstance(source.network, TimmNetwork)
    assert isinstance(copied.network, RecordedNetwork)
    assert copied.key == source.key and copied.spec == source.spec
    assert copied.record() == source.record()
    for a, b in ((source, copied), (source.network, copied.network)):
        assert list(a.state_dict()) == list(b.state_dict())
        assert [key for key, _ in a.named_parameters()] == [key for key, _ in b.named_parameters()]
    assert not any(value.requires_grad for value in copied.parameters())
    assert same(source, copied, 3, 3, SIDE, SIDE) and same(source, copied, 1, 3, 96, 160)
    for other in (copy.deepcopy(copied), pickle.loads(pickle.dumps(copied))):
        assert same(source, other, 1, 3, SIDE, SIDE)


def test_values_are_freed_after_their_last_use():
    network = recorded(built("resnet18")).network
    operations = network.record.operations
    assert len(operations) > 40
    freed = [index for step in network._steps for index in step.unused]
    assert sorted([*freed, *network.record.outputs]) == list(range(len(operations) + 1))
    steps = network._fused_steps
    expected = [0, *(step.number + 1 for step in steps)]
    freed = [index for step in steps for index in step.unused]
    assert len(steps) < len(network._steps)
    assert sorted([*freed, *network.record.outputs]) == expected


@pytest.mark.parametrize(
    ("name", "size"),
    [("test_vit", 160), ("tf_mobilenetv3_small_100", SIDE)],  # positions; padding by the size
)
def test_a_network_that_depends_on_the_image_size_is_not_recorded(name, size):
    assert built(name, size).record() is None


def test_backbones_that_need_no_timm_are_not_recorded():
    for name in ("pixels", "filters", "filters+filters@0.5"):
        assert built(name).record() is None


def change(record: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(record), **values}


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: [1],
        lambda r: change(r, version=2),
        lambda r: change(r, operations=[["torch.load", ["model.pth"], {}], *r["operations"]]),
        lambda r: change(
            r, operations=[["torch.Tensor.add", [{"file": "x"}], {}], *r["operations"]]
        ),
        lambda r: change(
            r, operations=[["torch.Tensor.add", [{"state": []}], {}], *r["operations"]]
        ),
        lambda r: change(
            r, operations=[["torch.Tensor.add", [{"value": 1}, 1], {}], *r["operations"]]
        ),
        lambda r: change(r, outputs=[1, 10_000]),
        lambda r: change(r, outputs=[-1, 1]),
        lambda r: change(r, outputs=[]),
        lambda r: change(r, levels=[], outputs=[]),
        lambda r: change(r, state=r["state"][1:]),
        lambda r: change(r, state=[["training", False], *r["state"][1:]]),
    ],
)
def test_a_record_of_another_version_is_replaced_by_the_network_of_timm(damage):
    source = built_by_timm()
    copied = recorded(source, damage(source.record()))
    assert isinstance(copied.network, TimmNetwork) and same(source, copied, 2, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    "operation",
    [
        ["torch.Tensor.add", [{"value": 0}], {}],
        ["torch.Tensor.add", [{"value": 0}, 1], {"unknown": 2}],
        ["torch.Tensor.view", [{"value": 0}, [7]], {}],
        ["torch.cat", [3], {}],
    ],
)
def test_a_record_that_fails_is_one_sentence(operation):
    source = built()
    record = source.record()
    damaged = change(record, operations=[operation, *record["operations"]])
    with pytest.raises(UserError, match="test_resnet cannot take images of 64 x 64 px"):
        recorded(source, damaged)


def test_an_output_that_is_not_a_map_is_one_sentence():
    source = built()
    record = source.record()
    pooled = ["torch.Tensor.mean", [{"value": 0}, [2, 3]], {}]
    operations, first = [*record["operations"], pooled], record["outputs"][0]
    damaged = change(record, operations=operations, outputs=[len(operations), first])
    with pytest.raises(UserError, match="test_resnet cannot take images of 64 x 64 px"):
        recorded(source, damaged)


def test_a_size_that_the_network_cannot_take_is_one_sentence():
    settings = validate(
        FeatureSettings, {"backbone": "hrnet_w18_small", "weights": "random"}, "features."
    )
    with pytest.raises(UserError, match="hrnet_w18_small cannot take images of 112 x 112 px"):
        Backbone(settings, 112)


def test_a_state_dict_of_other_shapes_does_not_fit():
    source = built()
    state = source.state_dict()
    key = next(key for key, value in state.items() if value.ndim == 4 and "conv" in key)
    state[key] = state[key][:, :, :1]
    del state[next(key for key in state if key.endswith("running_mean"))]
    with pytest.raises(RuntimeError, match="running_mean"):
        Backbone(source.settings, SIDE, state, source.record())


@pytest.mark.parametrize(
    "change",
    [
        lambda call: call.pop(),  # groups
        lambda call: call.__setitem__(6, "two"),
        lambda call: call.__setitem__(3, None),
        lambda call: call.__setitem__(slice(1, None), []),
        lambda call: call.__setitem__(0, 3),
        lambda call: call.__setitem__(0, {"value": 10_000}),
    ],
)
def test_a_damaged_convolution_is_at_most_one_sentence(change):
    source = built("resnet18")
    record = copy.deepcopy(source.record())
    operation = next(
        o for o in record["operations"] if o[0].endswith("conv2d") and o[1][3] == [1, 1]
    )
    change(operation[1])
    try:
        recorded(source, record)
    except UserError as error:
        assert "resnet18 cannot take images of 64 x 64 px" in str(error)
