"""The head of the paper recipe computes the same function as the published arithmetic."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import torch

from vqlab.config import validate
from vqlab.detectors import detector_class
from vqlab.detectors.vqflow import VQFlow
from vqlab.recipes import recipe_tree
from vqlab.types import InputSpec, Sample

sys.path.append(str(Path(__file__).parents[1] / "bench"))
SIZES = ((12, 12), (8, 8), (3, 3), (3, 3))
"""Of levels whose convolutions use tiles of 4, 4 and 1."""


def head() -> tuple[VQFlow, Sample]:
    """The paper recipe with few channels and perturbed weights."""
    settings = dict(recipe_tree("paper/vqflow_mvtec", [])["detector"])
    settings.pop("name")
    settings["positions"] = 4
    settings["concept"] = {**settings["concept"], "dim": 6, "codebook_size": 4}
    settings["pattern"] = {**settings["pattern"], "codebook_size": 8}
    kind = detector_class("vqflow")
    detector = kind(validate(kind.Config, settings), InputSpec((4, 6, 8, 10), SIZES, (96, 96)))
    assert isinstance(detector, VQFlow)
    detector.train()
    with torch.no_grad():
        for weight in detector.parameters():
            weight += 0.02 * torch.randn_like(weight)
    shapes = zip((4, 6, 8, 10), SIZES, strict=True)
    pyramid = tuple(torch.randn(8, c, *size) for c, size in shapes)
    sample = Sample(torch.zeros(8, 3, 96, 96), pyramid)
    detector.loss(sample)  # initializes actnorms and codebooks
    return detector, sample


def test_likelihood_and_gradients_equal_the_published_arithmetic() -> None:
    from reference_vqflow import DenseFlow, with_published_arithmetic

    detector, sample = head()
    reference = with_published_arithmetic(deepcopy(detector))
    ours, theirs = detector.loss(sample), reference.loss(sample)
    torch.testing.assert_close(ours["nll"], theirs["nll"], rtol=1e-5, atol=0)
    ours["loss"].backward()
    theirs["loss"].backward()
    for level, dense in zip(detector.levels, reference.levels, strict=True):
        gradients = DenseFlow(level.flow, level.condition.width)
        for weight in level.flow.parameters():
            weight.data.copy_(weight.grad)  # convert to the layout of the reference
        gradients.load(level.flow)
        expected = {name: weight.grad for name, weight in dense.flow.named_parameters()}
        for name, gradient in gradients.named_parameters():
            scale = 1e-4 * float(expected[name].abs().max())
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=scale, msg=name)
    remaining = {n: p for n, p in reference.named_parameters() if ".flow." not in n}
    scale = 1e-5 * max(float(weight.grad.abs().max()) for weight in remaining.values())
    for name, weight in detector.named_parameters():
        if name in remaining:  # gradients before a batch norm are 0 up to rounding
            torch.testing.assert_close(
                weight.grad, remaining[name].grad, rtol=1e-3, atol=scale, msg=name
            )
