"""The frozen backbone: features, settings, weights and error messages."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants as hub

from vqlab.config import dump, validate
from vqlab.features import Backbone, FeatureSettings, unavailable_reason
from vqlab.features.state_dict import find_state_dict
from vqlab.types import UserError

SIDE = 64
WEIGHTS = os.environ.get("VQLAB_WEIGHTS")


def settings(**values: object) -> FeatureSettings:
    return validate(FeatureSettings, values, "features.")


def built(size: int = SIDE, **values: object) -> Backbone:
    return Backbone(settings(**{"backbone": "test_resnet", "weights": "random", **values}), size)


def images(count: int = 3, size: int = SIDE) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def test_pixels_backbone_returns_the_image_and_has_no_state():
    backbone = Backbone(FeatureSettings(), 32)
    x = images(2, 32)
    assert backbone(x)[0] is x
    assert backbone.state_dict() == {} and not backbone.cacheable


def test_default_levels_have_stride_8_and_16_without_later_layers():
    backbone = built(backbone="resnet18")
    assert backbone.spec.channels == (128, 256)
    assert backbone.spec.sizes == ((8, 8), (4, 4))
    assert backbone.spec.image_size == (SIDE, SIDE)
    pyramid = backbone(images())
    assert [tuple(level.shape) for level in pyramid] == [(3, 128, 8, 8), (3, 256, 4, 4)]
    assert not [name for name in backbone.state_dict() if "layer4" in name]


def test_levels_equal_those_of_timm_after_normalization():
    backbone = built(levels=[1, 4])
    network = timm.create_model("test_resnet", features_only=True, out_indices=(1, 4)).eval()
    weights = backbone.network.model.state_dict()
    network.load_state_dict(weights)
    mean, std = (network.pretrained_cfg[name] for name in ("mean", "std"))
    x = images(1)
    with torch.no_grad():
        expected = network((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    for actual, theirs in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(actual, theirs, rtol=1e-3, atol=1e-4)  # half precision


def test_is_always_frozen():
    backbone = built()
    before = [level.clone() for level in backbone(images())]
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert not any(weight.requires_grad for weight in backbone.parameters())
    after = backbone(images().requires_grad_())
    assert all(
        torch.equal(a, b) and not b.requires_grad for a, b in zip(before, after, strict=True)
    )


def test_features_are_independent_of_batch_mates_and_in_half_precision():
    backbone = built()
    x = images(5)
    for batched, single in zip(backbone(x), backbone(x[3:4]), strict=True):
        assert torch.equal(batched[3:4], single)
        assert batched.dtype == torch.float32 and batched.is_contiguous()
        assert torch.equal(batched, batched.half().float())


def test_value_beyond_half_precision_is_finite():
    backbone = built()
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.mul_(30)
    assert all(level.isfinite().all() for level in backbone(images()))


def test_random_weights_depend_on_their_seed_and_keep_the_global_generator_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, repeated, other = built(), built(), built(seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert first.key == repeated.key != other.key
    assert torch.equal(first(images())[0], repeated(images())[0])


def test_key_depends_on_everything_that_affects_features():
    keys = {
        built().key,
        built(levels=[1, 2]).key,
        built(pool="avg").key,
        built(pool="max").key,
        built(size=96).key,
        built(backbone="test_convnext").key,
        Backbone(FeatureSettings(), SIDE).key,
    }
    assert len(keys) == 7


def test_pooling_halves_every_level_except_the_last():
    plain, avg, top = (
        built(levels=[1, 2, 3]),
        *(built(levels="1,2,3", pool=p) for p in ("avg", "max")),
    )
    assert avg.spec.sizes == top.spec.sizes == ((8, 8), (4, 4), (4, 4))
    x = images(1)
    assert torch.equal(plain(x)[2], avg(x)[2])
    assert (top(x)[0] >= avg(x)[0] - 1e-3).all()


def test_vision_transformer():
    assert built(160, backbone="test_vit").spec.sizes == ((10, 10), (10, 10))


def test_network_with_channels_last_output():
    backbone, x = built(backbone="test_mambaout"), images(1)
    normalised = (x - backbone.network.mean) / backbone.network.std
    levels = backbone.network.model(normalised)
    assert [level.shape[3] for level in levels] == list(backbone.spec.channels)
    for a, b in zip(backbone(x), levels, strict=True):
        assert torch.equal(a, b.permute(0, 3, 1, 2).half().float()) and a.is_contiguous()


@pytest.mark.slow
def test_swin_has_channels_last_output():
    backbone = built(224, backbone="swin_tiny_patch4_window7_224")
    assert backbone.spec.channels == (192, 384) and backbone.spec.sizes == ((28, 28), (14, 14))


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        ({"backbone": "resnet81"}, 64, "features.backbone: resnet81 does not exist.*resnet18"),
        ({"backbone": "zzz"}, 64, "zzz does not exist; choose a timm network"),
        ({"backbone": "resnet18.nothing"}, 64, "has no feature maps.*nothing"),
        (
            {"levels": [2, 5]},
            64,
            r"levels 0 \(stride 2, 32 channels\), .*4 \(stride 32.*got \[2, 5\]",
        ),
        ({}, 100, "data.image_size: must be a multiple of 16.*nearest are 96 and 112"),
        ({"backbone": "test_vit"}, 64, "only images of 160 px; got 64; set data.image_size=160"),
    ],
)
def test_incompatible_settings_raise(values, size, message):
    with pytest.raises(UserError, match=message):
        built(size, **values)


@pytest.mark.parametrize("levels", [[3, 2], [2, 2], [-1], [], "two", 1.5])
def test_levels_must_be_increasing_numbers(levels):
    with pytest.raises(UserError, match="setting features.levels"):
        settings(levels=levels)


def test_settings_accept_command_line_values(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    parsed = settings(backbone="resnet18", levels="2,3", weights="~/w.pth")
    assert parsed.levels == (2, 3) and settings(levels=2).levels == (2,)
    assert parsed.weights == str(tmp_path / "w.pth")
    assert validate(FeatureSettings, dump(parsed)) == parsed
    assert parsed.tags == {"vqlab.backbone": "resnet18"}
    assert settings(backbone="resnet18", weights="random").tags["vqlab.features"] == "random"


def test_weights_file_with_additional_entries(tmp_path):
    source = built(levels=[2, 3, 4])
    weights = source.network.model.state_dict()
    state = {key: value.contiguous() for key, value in weights.items()}
    state["fc.weight"] = torch.ones(2, 2)
    del state["conv1.1.num_batches_tracked"]  # counts training steps; missing in some files
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    expected = built(levels=[2, 3])  # the same seed, but fewer layers to initialize
    for name in ("w.pth", "w.safetensors"):
        backbone = built(weights=str(tmp_path / name))
        assert torch.equal(backbone(images())[0], source(images())[0])
        assert list(backbone.state_dict()) == list(expected.state_dict())


def test_weights_of_the_complete_network_load_with_keys_renamed_by_timm(tmp_path):
    network = timm.create_model("test_convnext")
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    backbone = built(backbone="test_convnext", weights=str(tmp_path / "whole.pth"))
    weights = backbone.network.model.state_dict()
    assert torch.equal(
        weights["stages_1.blocks.0.conv_dw.weight"], network.stages[1].blocks[0].conv_dw.weight
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be hub, random, the file.*does not exist"),
        (b"no weights at all", "cannot be read as a state dict"),
        ({}, "holds no tensors by name"),
        ([1, 2], "holds no tensors by name"),
        (
            {"conv1.0.weight": torch.ones(8, 3, 7, 7)},
            r"does not fit test_resnet: conv1.0.weight is \(8, 3, 7, 7\) and must be \(16, 3, 3, "
            r"3\), conv1.1.weight is missing, .*and \d+ more; use a state dict of test_resnet",
        ),
    ],
)
def test_mismatched_weights_raise(tmp_path, content, message):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        built(weights=str(path))
    assert str(path) in str(caught.value)


def test_weights_in_a_folder_are_selected_by_backbone_name(tmp_path):
    source = built()
    torch.save(source.network.model.state_dict(), tmp_path / "test_resnet_part.pth")
    (tmp_path / "test_resnet2.pth").write_bytes(b"of another backbone")
    (tmp_path / "test_resnet_notes.txt").write_text("no state dict")
    backbone = built(weights=str(tmp_path))
    assert torch.equal(backbone(images())[0], source(images())[0])
    assert unavailable_reason(settings(backbone="test_resnet", weights=str(tmp_path)), SIDE) == ""
    (tmp_path / "test_resnet.other.safetensors").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"must hold one state dict of test_resnet; it holds test_resnet.other.safetensors, "
        "test_resnet_part.pth; rename one",
    ):
        built(weights=str(tmp_path))
    (tmp_path / "test_resnet.pth").write_bytes(b"")
    assert find_state_dict(tmp_path, "test_resnet").name == "test_resnet.pth"
    with pytest.raises(UserError, match=r"must hold resnet18.pth, .*; it holds test_resnet.other"):
        built(backbone="resnet18", weights=str(tmp_path))


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        ({"backbone": "pixels"}, 63, ""),
        ({"backbone": "filters", "weights": "random"}, SIDE, ""),
        ({"backbone": "filters", "levels": [0, 1]}, SIDE, "filters has the levels"),
        ({"weights": "random"}, SIDE, ""),
        ({"weights": "random"}, 100, "multiple of 16"),
        ({"weights": "random", "levels": [7]}, SIDE, "test_resnet has the levels"),
        ({"weights": "nowhere.pth"}, SIDE, "nowhere.pth does not exist"),
    ],
)
def test_reason_why_a_backbone_is_unavailable(values, size, message):
    reason = unavailable_reason(settings(**{"backbone": "test_resnet", **values}), size)
    assert message in reason and bool(reason) == bool(message)


def test_file_contains_weights_of_one_backbone(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(built().network.model.state_dict(), path)
    assert unavailable_reason(settings(backbone="test_resnet", weights=str(path)), SIDE) == ""
    other = settings(backbone="test_convnext", weights=str(path))
    assert "w.pth does not fit test_convnext" in unavailable_reason(other, SIDE)
    with pytest.raises(UserError, match="did you mean resnet18"):
        unavailable_reason(settings(backbone="resnet81", weights=str(path)), SIDE)


@pytest.fixture
def empty_hub(monkeypatch, tmp_path):
    """An unreachable hub with an empty cache."""
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def test_offline_and_not_cached_error_suggests_a_fix(empty_hub):
    with pytest.raises(
        UserError, match="weights of test_resnet are not on this machine.*features.weig"
    ):
        built(weights="hub")
    assert not hub.HF_HUB_OFFLINE  # unchanged
    assert "weights not on this machine" in unavailable_reason(
        settings(backbone="test_resnet"), SIDE
    )


def test_weights_on_a_reachable_hub_count_as_available(empty_hub, monkeypatch):
    """Only the availability is requested: nothing is downloaded."""
    requests = []

    class Answering(BaseHTTPRequestHandler):
        def do_HEAD(self):
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        server.timeout = 10  # avoids waiting indefinitely
        thread = Thread(target=server.handle_request)
        thread.start()
        assert unavailable_reason(settings(backbone="test_resnet"), SIDE) == ""
        thread.join()
    assert requests in (["/"], [""])
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in unavailable_reason(settings(backbone="test_resnet"), SIDE)
    assert "no weights of it" in unavailable_reason(settings(backbone="test_mambaout"), 160)


def test_network_without_weights_on_the_hub_raises(empty_hub):
    with pytest.raises(UserError, match="features.weights: No pretrained weights.*state dict"):
        built(160, backbone="test_mambaout", weights="hub")


def test_offline_and_cached_needs_no_network(empty_hub):
    folder = empty_hub / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    place = folder / "snapshots" / ("0" * 40)
    place.mkdir(parents=True)
    network = timm.create_model("test_resnet")
    safetensors.torch.save_file(network.state_dict(), place / "model.safetensors")
    assert unavailable_reason(settings(backbone="test_resnet"), SIDE) == ""
    backbone = built(backbone="test_resnet", weights="hub")
    weights = backbone.network.model.state_dict()
    assert torch.equal(weights["conv1.0.weight"], network.conv1[0].weight)


def test_backbone_is_loaded_from_its_state_without_the_weights_file(tmp_path, empty_hub):
    torch.save(built().network.model.state_dict(), tmp_path / "w.pth")
    first = built(weights=str(tmp_path / "w.pth"))
    (tmp_path / "w.pth").unlink()
    loaded = Backbone(first.settings, SIDE, first.state_dict(), first.record())
    assert loaded.key == first.key
    assert torch.equal(loaded(images())[1], first(images())[1])
    old = Backbone(first.settings, SIDE, first.state_dict())
    assert old.key != first.key  # not fused
    torch.testing.assert_close(old(images())[1], first(images())[1], rtol=1e-3, atol=1e-4)
    Backbone(
        settings(backbone="test_resnet"), SIDE, first.state_dict()
    )  # source hub: no request is sent
    with pytest.raises(RuntimeError, match="size mismatch|Missing key"):
        Backbone(settings(backbone="test_convnext"), SIDE, first.state_dict())


@pytest.mark.data
@pytest.mark.skipif(not WEIGHTS, reason="VQLAB_WEIGHTS is not set: no real weights here")
def test_pretrained_weights_load_and_missing_entries_are_noted():
    folder = Path(WEIGHTS or "")
    resnet = str(folder / "resnet18_layer1to3.pth")
    assert built(256, backbone="resnet18", weights=resnet).spec.channels == (128, 256)
    mobile = built(256, backbone="mobilenetv2_100", weights=str(folder / "mobilenetv2_100.pth"))
    assert mobile.spec.channels == (32, 96)
    with pytest.raises(UserError, match="layer4.0.conv1.weight is missing"):
        built(backbone="resnet18", weights=resnet, levels=[2, 4])
    with pytest.raises(UserError, match="does not fit mobilenetv2_100"):
        built(backbone="mobilenetv2_100", weights=resnet)
