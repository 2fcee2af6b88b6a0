"""Other inference engines agree with torch or are rejected."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from vqlab.features import Backbone, FeatureSettings
from vqlab.features.engine import PACKAGES, build_engine
from vqlab.types import UserError

SIDE = 64


def backbone(name: str = "resnet18") -> Backbone:
    settings = FeatureSettings(backbone=name, levels=(1, 2), weights="random", cache=False)
    return Backbone(settings, SIDE)


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_features_agree_with_torch(name: str) -> None:
    for package in PACKAGES[name]:
        pytest.importorskip(package)
    reference, compiled = backbone(), backbone()
    compiled.use_engine(name)
    assert (reference.engine, compiled.engine) == ("torch", name)
    images = torch.rand(6, 3, SIDE, SIDE)
    expected = reference(images)
    with ThreadPoolExecutor(3) as pool:  # several threads share an engine
        each = list(pool.map(compiled, images.split(1)))
    for level, levels in zip(expected, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(levels), level, rtol=2e-3, atol=1e-3)
    for other in (copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled))):
        assert other.engine == "torch"
        assert torch.equal(other(images)[0], expected[0])
    compiled.use_engine("torch")
    assert torch.equal(compiled(images)[0], expected[0])


class Traced(nn.Module):
    """A network whose features change when it is traced."""

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images * (1.001 if torch.jit.is_tracing() else 1)]  # type: ignore[no-untyped-call]


def test_engine_that_differs_from_torch_is_rejected() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match=r"must agree with torch to 0\.0001 \(relative\); the diff"):
        build_engine("openvino", Traced(), SIDE)


def test_auto_falls_back_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "openvino", ("a_package_that_does_not_exist",))
    monkeypatch.setitem(PACKAGES, "onnx", ("a_package_that_does_not_exist",))
    frozen = backbone("mobilenetv2_100")
    frozen.use_engine("auto")
    assert frozen.engine == "torch"
    with pytest.raises(UserError, match="needs the packages a_package_that_does_not_exist; inst"):
        frozen.use_engine("openvino")


def test_auto_leaves_networks_of_wide_convolutions_to_torch() -> None:
    pytest.importorskip("openvino")
    for name, engine in (("resnet18", "torch"), ("mobilenetv2_100", "openvino")):
        frozen = backbone(name)
        frozen.use_engine("auto")
        assert frozen.engine == engine
