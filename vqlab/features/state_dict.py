"""State dicts on disk: which file a backbone's weights are in, and what it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from vqlab.errors import UserError

_KINDS = (".pth", ".safetensors")
WEIGHTS_FOLDER = "VQLAB_WEIGHTS"
"""Environment variable: a folder of state dicts that is looked into before the hub."""
_LISTED = 8
"""Files of a folder that an error names."""


def find_state_dict(weights: Path, name: str) -> Path:
    """The file of a backbone's weights: `weights` itself, or in that folder the one of its name.

    `resnet18.pth` or `resnet18.safetensors`, else the only one that begins with `resnet18_` or
    `resnet18.`. Raises UserError where there are several or none.
    """
    if not weights.is_dir():
        return weights
    files = sorted(path for path in weights.iterdir() if path.suffix in _KINDS and path.is_file())
    exact = [path for path in files if path.stem == name]
    found = exact or [path for path in files if path.stem.startswith((f"{name}_", f"{name}."))]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"setting features.weights: folder {weights} must hold one state dict of {name}; it "
            f"holds {_names(found)}; rename one to {name}{found[0].suffix}, or give its path."
        )
    raise UserError(
        f"setting features.weights: folder {weights} must hold {name}.pth, {name}.safetensors or "
        f"one {name}_….pth; it holds {_names(files) or 'none of any backbone'}; put it there, or "
        "choose another backbone."
    )


def local_state_dict(name: str) -> Path | None:
    """The file of a backbone's weights in the folder that VQLAB_WEIGHTS names, None without one."""
    folder = os.environ.get(WEIGHTS_FOLDER, "").strip()
    if not folder:
        return None
    try:
        return find_state_dict(Path(folder).expanduser(), name)
    except UserError:
        return None


def _names(files: list[Path]) -> str:
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    return ", ".join(path.name for path in files[:_LISTED]) + more


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, by name. Raises UserError where it holds none."""
    if not path.is_file():
        raise UserError(
            f"setting features.weights: must be hub, random, the file of a state dict or a folder "
            f"of such files; {path} does not exist."
        )
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling has no error of its own
        reason = " ".join(str(error).split())[:100]
        raise UserError(
            f"setting features.weights: {path} cannot be read as a state dict ({reason}); save one "
            "with torch.save(network.state_dict(), path) or as .safetensors."
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    named = state if isinstance(state, Mapping) else {}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"setting features.weights: {path} holds no tensors by name.")
    return tensors
