"""Any network of timm that offers `features_only`, with its weights. The only file with timm."""

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
from vqlab.features.settings import HUB, RANDOM, FeatureSettings
from vqlab.features.state_dict import find_state_dict, local_state_dict, read_state_dict

REACH_SECONDS = 5
"""How long the hub may take to answer before this machine counts as offline."""


class TimmNetwork(nn.Module):
    """Images (B, 3, S, S) in [0, 1] → the chosen levels, finest first, after timm's own mean/std.

    Holds no layer beyond the deepest chosen level.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: FeatureSettings, image_size: int, bare: bool = False) -> None:
        """bare: without weights, to be filled with `load_state_dict`."""
        super().__init__()
        name, weights = settings.backbone, settings.weights
        whole = _skeleton(name)
        self.levels = _choose_levels(name, whole.feature_info, settings.levels)
        _check_size(name, whole, self.levels[-1], image_size)
        weights = _source(name, weights)
        if weights == HUB and not bare:
            self.model = _from_hub(name, self.levels)
        else:
            self.model = _create(name, self.levels)
            if weights != RANDOM and not bare:
                self.model.load_state_dict(_fitting(self.model, name, Path(weights)))
        self.channels: list[int] = self.model.feature_info.channels()
        data = timm.data.resolve_model_data_config(self.model)
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(data["std"]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.model((images - self.mean) / self.std)
        return [
            level if level.shape[1] == count else level.permute(0, 3, 1, 2)
            for level, count in zip(levels, self.channels, strict=True)
        ]  # some transformers put their channels last


def _source(name: str, weights: str) -> str:
    """`features.weights` with a local copy of the hub's weights in the place of `hub`."""
    local = local_state_dict(name) if weights == HUB else None
    return weights if local is None else str(local)


def _create(name: str, levels: tuple[int, ...], pretrained: bool = False) -> Any:
    return timm.create_model(name, features_only=True, out_indices=levels, pretrained=pretrained)


def _skeleton(name: str) -> Any:
    """The network with all its levels and without memory. UserError where there is none."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(
            name.partition(".")[0], timm.list_models(), n=3, cutoff=0.6
        )
        hint = f"did you mean {', '.join(near)}?" if near else "choose a timm network or pixels."
        raise UserError(f"setting features.backbone: {name} does not exist; {hint}")
    try:
        with torch.device("meta"):
            return timm.create_model(name, features_only=True)
    except Exception as error:  # whatever a network without feature maps stumbles over
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"setting features.backbone: {name} gives no feature maps ({reason}); choose another, "
            "e.g. resnet18 or convnextv2_base."
        ) from None


def _choose_levels(name: str, info: Any, wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    strides = [each["reduction"] for each in info.info]
    if wanted is None:
        last = {stride: level for level, stride in enumerate(strides)}
        both = 8 in last and 16 in last
        return (last[8], last[16]) if both else tuple(range(len(strides)))[-2:]
    if wanted[-1] >= len(strides):
        there = ", ".join(
            f"{level} (stride {each['reduction']}, {each['num_chs']} channels)"
            for level, each in enumerate(info.info)
        )
        raise UserError(
            f"setting features.levels: {name} has the levels {there}; got {list(wanted)}."
        )
    return wanted


def _check_size(name: str, whole: Any, deepest: int, size: int) -> None:
    """A size whose border a level would not see, or that the network was not made for."""
    cfg = getattr(whole, "pretrained_cfg", None) or whole.default_cfg
    own = cfg["input_size"][-1]
    if cfg.get("fixed_input_size") and size != own:
        raise UserError(
            f"setting data.image_size: {name} takes only images of {own} px; got {size}; set "
            f"data.image_size={own} or choose another backbone."
        )
    stride = whole.feature_info.info[deepest]["reduction"]
    if size % stride:
        below = size // stride * stride
        raise UserError(
            f"setting data.image_size: must be a multiple of {stride}, the stride of {name} at "
            f"level {deepest}; got {size}; the nearest are {below} and {below + stride}."
        )


def _from_hub(name: str, levels: tuple[int, ...]) -> Any:
    """With timm's weights: from the local cache, else downloaded. UserError where neither goes."""
    offline = hub.HF_HUB_OFFLINE
    try:
        with _without_network():  # a whole cache needs none, and the hub's retries take a minute
            return _create(name, levels, pretrained=True)
    except OSError:
        pass
    except RuntimeError as error:
        raise UserError(
            f"setting features.weights: {' '.join(str(error).split())} Set features.weights to a "
            "state dict of it, or choose another backbone."
        ) from None
    unreachable = "HF_HUB_OFFLINE is set" if offline else _unreachable()
    if not unreachable:
        try:
            return _create(name, levels, pretrained=True)
        except OSError as error:
            unreachable = " ".join(str(error).split())[:160]
    raise UserError(
        f"the weights of {name} are not on this machine and {hub.ENDPOINT} cannot be reached "
        f"({unreachable}); run once with internet, or set features.weights to a state dict of it "
        "(.pth, .safetensors), or features.backbone=filters, which needs none, or "
        "features.weights=random to only try things out."
    )


def missing_network(settings: FeatureSettings, image_size: int) -> str:
    """As `vqlab.features.missing`, of a network of timm."""
    name = settings.backbone
    whole, weights = _skeleton(name), _source(name, settings.weights)
    try:
        levels = _choose_levels(name, whole.feature_info, settings.levels)
        _check_size(name, whole, levels[-1], image_size)
        if weights == HUB:
            return _missing_at_hub(name)
        if weights != RANDOM:
            with torch.device("meta"):
                model = _create(name, levels)
            _fitting(model, name, Path(weights))
    except UserError as error:
        return str(error)
    return ""


def _missing_at_hub(name: str) -> str:
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        return "timm has no weights of it"
    if _is_kept(known):
        return ""
    why = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else _unreachable()
    where = f"weights not on this machine, and {hub.ENDPOINT} cannot be reached"
    return f"{where} ({why})" if why else ""


def _is_kept(known: Any) -> bool:
    """Whether the weights of a timm configuration were downloaded before."""
    if not known.hf_hub_id:
        return (Path(torch.hub.get_dir()) / "checkpoints" / Path(known.url).name).is_file()
    name = [known.hf_hub_filename] if known.hf_hub_filename else []
    try:
        with _without_network():
            timm.models.load_state_dict_from_hf(known.hf_hub_id, *name)
    except Exception:  # not there, or not readable: then it is not of use either
        return False
    return True


@contextmanager
def _without_network() -> Iterator[None]:
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def _unreachable() -> str:
    """Why the hub does not answer; empty where it does."""
    try:
        request = urllib.request.Request(hub.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError:
        return ""  # an answer, whatever it says
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return ""


def _fitting(model: nn.Module, name: str, weights: Path) -> dict[str, Tensor]:
    """What fills `model` of the state dict at `weights` (or in that folder), which may hold more.
    UserError says what does not fit."""
    path = find_state_dict(weights, name)
    found = {_plain(key): value for key, value in read_state_dict(path).items()}
    own = model.state_dict()
    prefix = "model." if all(key.startswith("model.") for key in own) else ""
    state: dict[str, Tensor] = {}
    faults: list[str] = []
    for key, wanted in own.items():
        value = found.get(_plain(key.removeprefix(prefix)))
        if value is not None and value.shape == wanted.shape:
            state[key] = value
        elif value is not None:
            faults.append(f"{key} is {tuple(value.shape)} and must be {tuple(wanted.shape)}")
        elif key.endswith("num_batches_tracked"):  # counts training steps; no use here
            state[key] = wanted
        else:
            faults.append(f"{key} is missing")
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(
            f"setting features.weights: {path} does not fit {name}: {', '.join(faults[:3])}{more}; "
            f"give a state dict of {name}, or choose levels that it reaches."
        )
    return state


def _plain(key: str) -> str:
    """A key as both sides spell it: timm joins `stages.0` to `stages_0` in a feature network."""
    return key.removeprefix("module.").replace(".", "_")
