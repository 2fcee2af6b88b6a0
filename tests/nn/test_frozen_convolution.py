"""A frozen convolution equals `conv2d` and the operations after it, computed in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vqlab.nn.frozen_convolution import FrozenConvolution

PLAIN = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=generator)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values


def expected(x, weight, bias, residual, rectify, **geometry):
    out = F.conv2d(x.double(), weight.double(), bias.double(), **geometry)
    out = out if residual is None else out + residual.double()
    return out.relu() if rectify else out


def assert_close(actual, exact):
    assert actual.shape == exact.shape
    assert actual.is_contiguous(memory_format=torch.channels_last)
    assert float((actual - exact).abs().max() / exact.abs().max()) < 2e-5


@pytest.mark.parametrize("shape", [(64, 64), (16, 16), (13, 18), (15, 17), (21, 50), (4, 61)])
@pytest.mark.parametrize(("added", "rectify"), [(True, True), (False, True), (False, False)])
def test_minimal_filtering(shape, added, rectify):
    x, weight, bias = normal(1, 64, *shape), normal(96, 64, 3, 3, seed=1), normal(96, seed=2)
    residual = normal(1, 96, *shape, seed=3) if added else None
    convolution = FrozenConvolution(weight, bias, **PLAIN)
    actual = convolution(x, residual, rectify)
    assert convolution.filtered and convolution._filters is not None
    assert_close(actual, expected(x, weight, bias, residual, rectify, **PLAIN))


@pytest.mark.parametrize(
    ("kernel", "groups", "changed"),
    [
        (3, 1, {"stride": 2}),
        (3, 1, {"padding": 0}),
        (3, 1, {"padding": "same"}),
        (3, 1, {"padding": [1, 1], "dilation": [2, 2]}),
        (3, 64, {}),
        (1, 1, {"padding": 0, "stride": [2, 2]}),
        (5, 1, {"padding": 2}),
    ],
)
def test_other_convolutions_are_those_of_torch(kernel, groups, changed):
    x, bias = normal(1, 64, 20, 24), normal(64, seed=2)
    weight = normal(64, 64 // groups, kernel, kernel, seed=1)
    geometry = PLAIN | {"groups": groups} | changed
    convolution = FrozenConvolution(weight, bias, **geometry)
    actual = convolution(x, None, True)
    assert convolution._filters is None
    assert_close(actual, expected(x, weight, bias, None, True, **geometry))


def test_small_maps_and_few_channels_are_left_to_torch():
    for x, channels in ((normal(1, 64, 12, 16), 64), (normal(1, 32, 64, 64), 32)):
        weight = normal(channels, channels, 3, 3, seed=1)
        bias = torch.zeros(channels)
        convolution = FrozenConvolution(weight, bias, **PLAIN)
        actual = convolution(x, None, False)
        assert_close(actual, expected(x, weight, bias, None, False, **PLAIN))
        assert convolution._filters is None


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 64, 1, 1), (1, 64, 16, 1)])
def test_a_sum_of_another_shape_is_broadcast(shape):
    x, weight, residual = normal(1, 64, 16, 16), normal(64, 64, 3, 3), normal(*shape, seed=4)
    actual = FrozenConvolution(weight, torch.zeros(64), **PLAIN)(x, residual, True)
    assert_close(actual, expected(x, weight, torch.zeros(64), residual, True, **PLAIN))


def test_bias_of_another_length_raises():
    with pytest.raises(RuntimeError):
        FrozenConvolution(normal(64, 64, 3, 3), torch.zeros(63), **PLAIN)


def test_not_a_number_stays():
    x = normal(1, 64, 16, 16)
    x[0, 0, 8, 8] = torch.nan
    out = FrozenConvolution(normal(64, 64, 3, 3), torch.zeros(64), **PLAIN)(x, None, True)
    assert out[:, :, 7:10, 7:10].isnan().all()
