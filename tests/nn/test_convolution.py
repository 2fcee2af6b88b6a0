"""The 3 × 3 convolution by minimal filtering equals the direct convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlab.nn.convolution import Conv3x3, in_layout_of, outputs_first
from vqlab.nn.minimal_filtering import tile_side


def dense(layer: Conv3x3, x: Tensor, constant: Tensor | None) -> Tensor:
    if constant is not None:
        x = torch.cat([x, constant[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
    return F.conv2d(x, outputs_first(layer.weight), layer.bias, padding=1)


@pytest.mark.parametrize(
    "images, height, width, side",
    [
        (2, 5, 1, 1), (1, 2, 2, 1), (7, 5, 6, 1), (2, 17, 16, 2), (32, 3, 2, 2), (8, 17, 15, 4),
        (32, 3, 1, 1), (64, 7, 1, 1), (64, 1, 1, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("constants", [0, 3])
def test_equals_direct_convolution(
    images: int, height: int, width: int, side: int, constants: int
) -> None:
    assert tile_side(images, height, width) == side
    layer = Conv3x3(5 + constants, 4).double()
    x = torch.randn(images, 5, height, width, dtype=torch.float64, requires_grad=True)
    constant = torch.randn(images, constants, dtype=torch.float64, requires_grad=True)
    constant_or_none = constant if constants else None
    inputs = [x, layer.weight, layer.bias, *([constant] if constants else [])]
    out, direct = layer(x, constant_or_none), dense(layer, x, constant_or_none)
    torch.testing.assert_close(out, direct, rtol=0, atol=1e-11)
    into = torch.randn_like(out)
    gradients = (torch.autograd.grad(value, inputs, into) for value in (out, direct))
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_many_channels_are_computed_in_chunks() -> None:
    layer = Conv3x3(1600, 400, bias=False)
    x = torch.randn(2, 1600, 17, 16)
    torch.testing.assert_close(layer(x), dense(layer, x, None), rtol=1e-4, atol=1e-4)


def test_float32_error_is_small() -> None:
    """F(4 × 4, 3 × 3) amplifies rounding errors by about ten."""
    layer = Conv3x3(256, 64)
    x = torch.randn(2, 256, 32, 32)
    assert tile_side(2, 32, 32) == 4
    right = dense(layer.double(), x.double(), None)
    error = (layer.float()(x) - right).abs().max()
    assert error < 2e-5 * right.abs().max()


def test_state_dict_is_compatible_with_torch_conv2d() -> None:
    ours, theirs = Conv3x3(3, 4), nn.Conv2d(3, 4, 3, padding=1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    loaded = nn.Conv2d(3, 4, 3, padding=1)
    loaded.load_state_dict(ours.state_dict())
    assert torch.equal(loaded.weight, theirs.weight)


def test_same_result_under_autocast_and_without_gradient() -> None:
    layer, x, constant = Conv3x3(6, 4), torch.randn(2, 4, 5, 5), torch.randn(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x, constant)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), layer(x, constant), rtol=0.05, atol=0.05)
    with torch.inference_mode():
        assert torch.equal(layer(x, constant), layer(x, constant))


def test_optimizer_moments_in_the_layout_of_torch_are_converted() -> None:
    weight = Conv3x3(5, 4).weight
    saved = torch.randn(4, 5, 3, 3)
    assert torch.equal(outputs_first(in_layout_of(weight, saved)), saved)
    assert in_layout_of(weight, weight) is weight


def test_exported_graph_has_a_single_convolution() -> None:
    layer, x = Conv3x3(6, 4).requires_grad_(False), torch.randn(2, 4, 5, 5)
    program = torch.export.export(layer, (x, torch.randn(2, 2)), strict=False)
    operators = [str(node.target) for node in program.graph.nodes]
    assert sum("conv" in name for name in operators) == 1
    assert not any("mm" in name for name in operators)
