"""Steps of every detector on one device: no tensor on another device, and no value read in Python.

The `meta` device detects both without a GPU: an operation that mixes it with another device raises,
and so does reading a value. Restarts of dead codes depend on values and are disabled here.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from test_contract import CASES as MARKED_CASES

from vqlab.detectors import Detector
from vqlab.nn.codebook import Codebook
from vqlab.testing import products
from vqlab.types import Sample

pytestmark = pytest.mark.usefixtures("narrow_fusion")
CASES = [case.values[0] for case in MARKED_CASES]
NUMBERS = [
    pytest.param(number, id=case.id, marks=case.marks) for number, case in enumerate(MARKED_CASES)
]


def on(device: str, number: int) -> tuple[Detector, Sample]:
    """Return a detector of the contract's cases on the device, trained without restarts until its
    codebooks are in use, with a pyramid of images."""
    detector = deepcopy(CASES[number].briefly_trained).to(device)
    for module in detector.modules():
        if isinstance(module, Codebook):
            module.restart = 0.0
    sample = CASES[number].sample(products(6, seed=3))
    pyramid = tuple(level.to(device) for level in sample.pyramid)
    return detector, Sample(sample.image.to(device), pyramid)


@pytest.mark.parametrize("number", NUMBERS)
def test_training_step_stays_on_its_device(number: int) -> None:
    detector, sample = on("meta", number)
    loss = detector.train().loss(sample)["loss"]
    assert loss.is_meta
    if loss.requires_grad:
        torch.autograd.backward(loss)
        assert all(w.grad is None or w.grad.is_meta for w in detector.parameters())


@pytest.mark.parametrize("number", NUMBERS)
def test_scoring_stays_on_its_device(number: int) -> None:
    if CASES[number].settings.get("pattern", {}).get("coverage_kind") == "per_concept":
        pytest.skip("per_concept reads the prototypes of the images to choose their coresets")
    detector, sample = on("meta", number)
    with torch.no_grad():
        result = detector.score(sample)
    assert result.anomaly_map.is_meta and result.image_score.is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("number", NUMBERS)
def test_cuda_scores_equal_cpu_scores(number: int) -> None:
    detector, sample = on("cuda", number)
    with torch.no_grad():
        got = detector.eval().score(sample)
        expected = CASES[number].briefly_trained.score(CASES[number].sample(products(6, seed=3)))
    torch.testing.assert_close(got.image_score.cpu(), expected.image_score, rtol=1e-2, atol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        loss = detector.train().loss(sample)["loss"]
    assert bool(loss.isfinite())
    if loss.requires_grad:
        torch.autograd.backward(loss)


def test_mixed_devices_raise() -> None:
    with pytest.raises(RuntimeError):
        torch.ones(2) + torch.ones(2, device="meta")
