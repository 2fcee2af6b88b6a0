"""Networks of timm that support `features_only`. The only module that imports timm."""

from __future__ import annotations

import difflib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants as hub
from torch import Tensor, nn

from vqlab.errors import UserError
from vqlab.features.recording import make_contiguous
from vqlab.features.settings import HUB, RANDOM, FeatureSettings, check_stride
from vqlab.features.state_dict import find_state_dict, local_state_dict, read_state_dict

REACH_SECONDS = 5
"""Timeout of the request that checks whether the hub can be reached."""


class TimmNetwork(nn.Module):
    """Images (B, 3, S, S) in [0, 1] → the chosen levels, finest first.

    Images are normalised by the network's mean and standard deviation. Layers beyond the deepest
    chosen level are dropped.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: FeatureSettings, image_size: int, bare: bool = False) -> None:
        """bare: without weights, for `load_state_dict`."""
        super().__init__()
        name, weights = settings.backbone, settings.weights
        network = _meta_network(name)
        self.levels = _choose_levels(name, network.feature_info, settings.levels)
        _check_size(name, network, self.levels[-1], image_size)
        weights = _source(name, weights)
        if weights == HUB and not bare:
            self.model = _from_hub(name, self.levels)
        else:
            self.model = _create(name, self.levels)
            if weights != RANDOM and not bare:
                self.model.load_state_dict(_matching_state(self.model, name, Path(weights)))
        self.model.to(memory_format=torch.channels_last)  # convolutions are faster
        self.model.register_state_dict_post_hook(make_contiguous)
        self._channels_last = getattr(self.model, "output_fmt", None) == timm.layers.Format.NHWC
        data = timm.data.resolve_model_data_config(self.model)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(data["std"]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        levels: list[Tensor] = self.model((images - self.mean) / self.std)
        return [level.permute(0, 3, 1, 2) for level in levels] if self._channels_last else levels


def _source(name: str, weights: str) -> str:
    """Replace `hub` by the path of a local state dict, if there is one."""
    local = local_state_dict(name) if weights == HUB else None
    return weights if local is None else str(local)


def _create(name: str, levels: tuple[int, ...], pretrained: bool = False) -> Any:
    return timm.create_model(name, features_only=True, out_indices=levels, pretrained=pretrained)


def _meta_network(name: str) -> Any:
    """Return the network with all levels on the meta device. Raises UserError if there is none."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(
            name.partition(".")[0], timm.list_models(), n=3, cutoff=0.6
        )
        hint = f"did you mean {', '.join(near)}?" if near else "choose a timm network or pixels."
        raise UserError(f"setting features.backbone: {name} does not exist; {hint}")
    try:
        with torch.device("meta"):
            return timm.create_model(name, features_only=True)
    except Exception as error:  # networks without feature maps raise various errors
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"setting features.backbone: {name} has no feature maps ({reason}); choose another, "
            "e.g. resnet18 or convnextv2_base."
        ) from None


def level_strides(name: str) -> list[int]:
    """Return the strides of all levels of a network. Raises UserError if it is unknown."""
    return [each["reduction"] for each in _meta_network(name).feature_info.info]


def _choose_levels(name: str, info: Any, requested: tuple[int, ...] | None) -> tuple[int, ...]:
    strides = [each["reduction"] for each in info.info]
    if requested is None:
        last = {stride: level for level, stride in enumerate(strides)}
        both = 8 in last and 16 in last
        return (last[8], last[16]) if both else tuple(range(len(strides)))[-2:]
    if requested[-1] >= len(strides):
        available = ", ".join(
            f"{level} (stride {each['reduction']}, {each['num_chs']} channels)"
            for level, each in enumerate(info.info)
        )
        raise UserError(
            f"setting features.levels: {name} has the levels {available}; got {list(requested)}."
        )
    return requested


def _check_size(name: str, network: Any, deepest: int, size: int) -> None:
    """Raise UserError for a size that the network does not accept, or that leaves a border that a
    level does not cover."""
    cfg = getattr(network, "pretrained_cfg", None) or network.default_cfg
    fixed = cfg["input_size"][-1]
    if cfg.get("fixed_input_size") and size != fixed:
        raise UserError(
            f"setting data.image_size: {name} takes only images of {fixed} px; got {size}; set "
            f"data.image_size={fixed} or choose another backbone."
        )
    check_stride(name, deepest, network.feature_info.info[deepest]["reduction"], size)


def _from_hub(name: str, levels: tuple[int, ...]) -> Any:
    """Load timm's weights from the local cache or download them. Raises UserError if neither
    works."""
    offline = hub.HF_HUB_OFFLINE
    try:
        with _without_network():  # a complete cache needs none; the hub's retries take a minute
            return _create(name, levels, pretrained=True)
    except OSError:
        pass
    except RuntimeError as error:
        raise UserError(
            f"setting features.weights: {' '.join(str(error).split())} Set features.weights to a "
            "state dict of it, or choose another backbone."
        ) from None
    unreachable = "HF_HUB_OFFLINE is set" if offline else _unreachable_reason()
    if not unreachable:
        try:
            return _create(name, levels, pretrained=True)
        except OSError as error:
            unreachable = " ".join(str(error).split())[:160]
    raise UserError(
        f"the weights of {name} are not on this machine and {hub.ENDPOINT} cannot be reached "
        f"({unreachable}); run once with internet access, set features.weights to a state dict "
        "(.pth, .safetensors), use features.backbone=filters, which needs no weights, or "
        "features.weights=random for a quick trial."
    )


def timm_unavailable_reason(settings: FeatureSettings, image_size: int) -> str:
    """Implement `unavailable_reason` for networks of timm."""
    name = settings.backbone
    network, weights = _meta_network(name), _source(name, settings.weights)
    try:
        levels = _choose_levels(name, network.feature_info, settings.levels)
        _check_size(name, network, levels[-1], image_size)
        if weights == HUB:
            return _hub_unavailable_reason(name)
        if weights != RANDOM:
            with torch.device("meta"):
                model = _create(name, levels)
            _matching_state(model, name, Path(weights))
    except UserError as error:
        return str(error)
    return ""


def _hub_unavailable_reason(name: str) -> str:
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or not cfg.has_weights:
        return "timm has no weights of it"
    if _is_downloaded(cfg):
        return ""
    reason = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else _unreachable_reason()
    sentence = f"weights not on this machine, and {hub.ENDPOINT} cannot be reached"
    return f"{sentence} ({reason})" if reason else ""


def _is_downloaded(cfg: Any) -> bool:
    """Return whether the weights of a timm configuration are in the local cache."""
    if not cfg.hf_hub_id:
        return (Path(torch.hub.get_dir()) / "checkpoints" / Path(cfg.url).name).is_file()
    name = [cfg.hf_hub_filename] if cfg.hf_hub_filename else []
    try:
        with _without_network():
            timm.models.load_state_dict_from_hf(cfg.hf_hub_id, *name)
    except Exception:  # missing or unreadable
        return False
    return True


@contextmanager
def _without_network() -> Iterator[None]:
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _unreachable_reason() -> str:
    """Say why the hub does not answer; empty if it does."""
    try:
        request = urllib.request.Request(hub.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return ""  # the hub answered
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


def _matching_state(model: nn.Module, name: str, weights: Path) -> dict[str, Tensor]:
    """Return the entries of the state dict at `weights` that `model` needs.

    Raises UserError for missing entries and entries of another shape.
    """
    path = find_state_dict(weights, name)
    tensors = {_normalize_key(key): value for key, value in read_state_dict(path).items()}
    expected = model.state_dict()
    prefix = "model." if all(key.startswith("model.") for key in expected) else ""
    state: dict[str, Tensor] = {}
    faults: list[str] = []
    for key, default in expected.items():
        value = tensors.get(_normalize_key(key.removeprefix(prefix)))
        if value is not None and value.shape == default.shape:
            state[key] = value
        elif value is not None:
            faults.append(f"{key} is {tuple(value.shape)} and must be {tuple(default.shape)}")
        elif key.endswith("num_batches_tracked"):  # counts training steps; unused here
            state[key] = default
        else:
            faults.append(f"{key} is missing")
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(
            f"setting features.weights: {path} does not fit {name}: {', '.join(faults[:3])}{more}; "
            f"use a state dict of {name}, or choose levels that it contains."
        )
    return state


def _normalize_key(key: str) -> str:
    """Return a key independent of timm's renaming of `stages.0` to `stages_0`."""
    return key.removeprefix("module.").replace(".", "_")
