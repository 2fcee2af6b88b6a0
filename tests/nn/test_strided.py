"""Layers of an autoencoder equal those of torch, with and without gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vqlab.nn.strided import (
    DoublingConvTranspose2d,
    HalvingConv2d,
    SameConv2d,
    SameConvTranspose2d,
)

I, O = 64, 128  # noqa: E741
PAIRS = {
    "same": lambda: (SameConv2d(I, O), nn.Conv2d(I, O, 3, 1, 1)),
    "halving": lambda: (HalvingConv2d(I, O), nn.Conv2d(I, O, 4, 2, 1)),
    "same transposed": lambda: (SameConvTranspose2d(I, O), nn.ConvTranspose2d(I, O, 3, 1, 1)),
    "doubling": lambda: (DoublingConvTranspose2d(I, O), nn.ConvTranspose2d(I, O, 4, 2, 1)),
}
Pair = tuple[nn.Module, nn.Module]


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    ours, theirs = PAIRS[request.param]()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def both(pair: Pair, x: Tensor) -> list[tuple[Tensor, ...]]:
    """Return output and gradients of both layers."""
    results = []
    for layer in pair:
        out = layer(x)
        torch.manual_seed(1)
        into = torch.randn(out.shape, dtype=out.dtype)
        gradients = torch.autograd.grad(out, [x, *layer.parameters()], into)
        results.append((out.detach(), *gradients))
    return results


@pytest.mark.parametrize(
    "images, height, width, filtered",
    [(3, 34, 40, True), (32, 10, 12, True), (1, 4, 6, False), (3, 33, 39, None)],
)
def test_equals_torch_layer(
    pair: Pair, images: int, height: int, width: int, filtered: bool | None
) -> None:
    for layer in pair:
        layer.double().to(memory_format=torch.channels_last)
    x = torch.randn(images, I, height, width, dtype=torch.float64, requires_grad=True)
    if filtered is not None:  # odd sides: some layers
        out, right = (type(layer(x).grad_fn) for layer in pair)
        assert (out is not right) == filtered
    for got, expected in zip(*both(pair, x), strict=True):
        assert got.shape == expected.shape
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_float32_error_is_small(pair: Pair) -> None:
    x = torch.randn(2, I, 64, 64, requires_grad=True)
    for got, expected in zip(*both(pair, x), strict=True):
        assert float((got - expected).abs().max()) < 2e-5 * float(expected.abs().max())


def test_large_batches_are_computed_in_chunks(pair: Pair) -> None:
    ours, _ = pair
    x = torch.randn(6, I, 100, 100)
    batched = ours(x)
    for index in (0, 5):
        torch.testing.assert_close(batched[index], ours(x[index : index + 1])[0])


def test_equals_torch_without_gradient_and_under_autocast(pair: Pair) -> None:
    ours, theirs = pair
    x = torch.randn(2, I, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), theirs(x))


def test_output_size_is_that_of_torch() -> None:
    layer, x = DoublingConvTranspose2d(I, O), torch.randn(3, I, 16, 20)
    assert layer(x, [33, 40]).shape == (3, O, 33, 40)
