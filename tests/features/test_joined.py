"""Several networks as one pyramid: joined levels, weights, scales, invalid settings."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from vqlab.config import dump, validate
from vqlab.features import Backbone, FeatureSettings, unavailable_reason
from vqlab.features.engine import PACKAGES
from vqlab.features.joined import JoinedNetwork, reference_images
from vqlab.model.model import build_detector
from vqlab.types import Sample, UserError

SIDE = 64
TWO = "test_resnet+test_convnext"


def settings(**values: object) -> FeatureSettings:
    return validate(FeatureSettings, values, "features.")


def built(size: int = SIDE, **values: object) -> Backbone:
    return Backbone(settings(**{"backbone": TWO, "weights": "random", **values}), size)


def images(count: int = 2, size: int = SIDE) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def saved(folder: Path, *names: str) -> None:
    for name in names:
        network = built(backbone=name).network
        torch.save(network.model.state_dict(), folder / f"{name}.pth")


def joined(backbone: Backbone) -> JoinedNetwork:
    assert isinstance(backbone.network, JoinedNetwork)
    return backbone.network


def test_levels_of_equal_stride_are_concatenated(tmp_path):
    saved(tmp_path, *TWO.split("+"))
    backbone = built(weights=str(tmp_path))
    single = [built(backbone=name, weights=str(tmp_path)) for name in TWO.split("+")]
    assert backbone.spec.channels == (48 + 32, 192 + 48)
    assert backbone.spec.sizes == single[0].spec.sizes == ((8, 8), (4, 4))
    scales = joined(backbone).scales
    assert scales[0].tolist() == [1, 1]
    pyramid, parts = backbone(images()), [each(images()) for each in single]
    for level in range(2):
        count = parts[0][level].shape[1]
        torch.testing.assert_close(
            pyramid[level][:, :count], parts[0][level], rtol=1e-3, atol=1e-4
        )  # fused
        expected = parts[1][level] * scales[1, level]
        torch.testing.assert_close(pyramid[level][:, count:], expected, rtol=2e-3, atol=1e-3)


def test_networks_are_scaled_to_the_channel_variance_of_the_first():
    backbone = built()
    pyramid = backbone(reference_images(SIDE))
    for level, first in zip(pyramid, (48, 192), strict=True):
        variance = level.movedim(1, -1).flatten(0, 2).var(0)
        ratio = float(variance[first:].mean() / variance[:first].mean())
        assert ratio == pytest.approx(1, abs=0.15)  # scales have two digits


def test_levels_of_other_networks_are_selected_by_stride():
    backbone = built(levels="1,3")
    assert joined(backbone).levels == [(1, 3), (0, 2)]
    assert backbone.spec.sizes == ((16, 16), (4, 4))
    assert joined(built(160, backbone="test_vit+test_resnet", levels=[3])).levels == [(3,), (3,)]
    assert joined(built(160, backbone="test_resnet+test_vit", levels=[3])).levels == [(3,), (5,)]


def test_half_size_image_as_another_part():
    backbone = built(backbone="test_resnet+test_resnet@0.5")
    assert joined(backbone).levels == [(2, 3), (1, 2)]
    assert backbone.spec.sizes == ((8, 8), (4, 4))
    assert backbone.spec.channels == (48 + 32, 192 + 48)
    half = built(backbone="test_resnet@0.5")
    assert half.spec.channels == (32, 48) and half.spec.image_size == (SIDE, SIDE)
    other = built(32, backbone="test_resnet", levels=[1, 2])
    shrunk = torch.nn.functional.avg_pool2d(images(), 2)
    torch.testing.assert_close(half(images())[1], other(shrunk)[1], rtol=1e-3, atol=1e-4)  # fused


def test_filters_can_be_joined_without_weights(tmp_path):
    saved(tmp_path, "test_resnet")
    backbone = built(backbone="test_resnet+filters", weights=str(tmp_path / "test_resnet.pth"))
    assert backbone.spec.channels == (48 + 79, 192 + 81)
    assert settings(backbone="filters+filters@0.5", weights="random").tags == {
        "vqlab.backbone": "filters+filters@0.5"
    }
    assert settings(backbone="filters+test_resnet", weights="random").tags["vqlab.features"]


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        (
            {"backbone": "test_resnet+test_vit"},
            160,
            "must have levels of equal stride, here 8, 16; test_resnet has 2, 4, 8, 16, 32; "
            "test_vit has 16; set features.levels=3 or choose",
        ),
        ({"levels": [0, 2]}, 64, "here 2, 8; .*; test_convnext has 4, 8, 16, 32; set features"),
        ({"levels": [2, 7]}, 64, r"must be levels of test_resnet of .*0 \(stride 2\).*\[2, 7\]"),
        ({"backbone": "test_vit+test_resnet", "levels": [1, 4]}, 160, "of different strides"),
        ({}, 72, "data.image_size: must be a multiple of 16.*nearest are 64 and 80"),
        ({"backbone": "test_resnet+test_vit", "levels": [3]}, 64, "only images of 160 px"),
        ({"backbone": "test_resnet+resnet81"}, 64, "resnet81 does not exist; did you mean"),
        ({"backbone": "test_resnet+"}, 64, "different networks joined by +"),
        ({"backbone": "test_resnet+test_resnet"}, 64, "different networks joined by +"),
        ({"backbone": "test_resnet+pixels"}, 64, "pixels must be the only backbone"),
        ({"backbone": "auto+filters"}, 64, "auto must be the only backbone"),
        ({"backbone": "pixels@0.5"}, 64, "pixels must be the only backbone, at full size"),
        ({"backbone": "test_resnet@2"}, 64, "size after @ must be 0.5 or 0.25; got"),
    ],
)
def test_incompatible_settings_raise(values, size, message):
    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        built(size, **values)


def test_single_weights_file_for_two_networks_raises(tmp_path):
    saved(tmp_path, "test_resnet")
    path = str(tmp_path / "test_resnet.pth")
    words = "must be a folder with test_convnext.pth, test_resnet.pth for .* got the file"
    with pytest.raises(UserError, match=words):
        built(weights=path)
    assert "must be a folder" in unavailable_reason(settings(backbone=TWO, weights=path), SIDE)
    assert built(backbone="test_resnet+test_resnet@0.5", weights=path).spec.channels == (80, 240)
    with pytest.raises(UserError, match=r"must hold test_convnext.pth"):
        built(weights=str(tmp_path))


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        ({}, SIDE, ""),
        ({}, 72, "multiple of 16"),
        ({"levels": [0]}, SIDE, "levels of equal stride"),
        ({"weights": "nowhere.pth"}, SIDE, "nowhere.pth does not exist"),
    ],
)
def test_reason_why_two_networks_are_unavailable(values, size, message):
    reason = unavailable_reason(settings(**{"backbone": TWO, "weights": "random", **values}), size)
    assert message in reason and bool(reason) == bool(message)
    with pytest.raises(UserError, match="resnet81 does not exist"):
        unavailable_reason(settings(backbone="test_resnet+resnet81"), SIDE)


def test_is_loaded_from_its_state_without_the_weights_files(tmp_path):
    saved(tmp_path, *TWO.split("+"))
    first = built(weights=str(tmp_path))
    for path in tmp_path.iterdir():
        path.unlink()
    loaded = Backbone(first.settings, SIDE, first.state_dict())
    assert loaded.key == first.key and validate(FeatureSettings, dump(first.settings)).joined
    for a, b in zip(loaded(images()), first(images()), strict=True):
        assert torch.equal(a, b)


def test_key_depends_on_everything_that_affects_features():
    keys = {
        built().key,
        built(seed=1).key,
        built(levels=[1, 3]).key,
        built(backbone="test_convnext+test_resnet").key,
        built(backbone="test_resnet+test_resnet@0.5").key,
        built(backbone="test_resnet").key,
    }
    assert len(keys) == 6 and built().key in keys


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_engines_agree_with_torch(name):
    for package in PACKAGES[name]:
        pytest.importorskip(package)
    reference = built(backbone="test_resnet+test_convnext+test_resnet@0.5")
    compiled = copy.deepcopy(reference)
    compiled.use_engine(name)
    for a, b in zip(compiled(images(1)), reference(images(1)), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("detector", ["vqflow", "memory_bank", "padim"])
def test_detectors_train_on_joined_features_and_tokens(detector):
    small = {
        "memory_bank": {"bank_size": 20},
        "padim": {"dims": 10},
        "vqflow": {"concept": {"codebook_size": 2}, "pattern": {"coverage": 20}},
    }[detector]
    for backbone in (built(), built(160, backbone="test_vit")):
        torch.manual_seed(0)
        built_detector = build_detector({"name": detector, **small}, backbone.spec)
        batch = images(4, backbone.image_size)
        samples = [Sample(batch, backbone(batch))]
        built_detector.prepare(samples)
        assert built_detector.loss(samples[0])["loss"].isfinite()
        built_detector.calibrate(samples, samples)
        score = built_detector.eval().score(samples[0])
        assert score.anomaly_map.shape == (4, backbone.image_size, backbone.image_size)
        assert score.image_score.isfinite().all()
