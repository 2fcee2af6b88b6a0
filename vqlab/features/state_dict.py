"""Find and read state dicts on disk."""

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
"""Environment variable: a folder of state dicts, searched before the hub."""
_LISTED = 8
"""Maximum number of files named in an error."""


def find_state_dict(weights: Path, name: str) -> Path:
    """Return the file with a backbone's weights: `weights`, or the matching file if it is a folder.

    In a folder: `resnet18.pth` or `resnet18.safetensors`, else the only file that begins with
    `resnet18_` or `resnet18.`. Raises UserError if there are several or none.
    """
    if not weights.is_dir():
        return weights
    files = sorted(path for path in weights.iterdir() if path.suffix in _KINDS and path.is_file())
    exact = [path for path in files if path.stem == name]
    matches = exact or [path for path in files if path.stem.startswith((f"{name}_", f"{name}."))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(
            f"setting features.weights: folder {weights} must hold one state dict of {name}; it "
            f"holds {_names(matches)}; rename one to {name}{matches[0].suffix}, or set the path to "
            "it."
        )
    raise UserError(
        f"setting features.weights: folder {weights} must hold {name}.pth, {name}.safetensors or "
        f"one {name}_….pth; it holds {_names(files) or 'no state dict'}; copy it there, or "
        "choose another backbone."
    )


def local_state_dict(name: str) -> Path | None:
    """Return the file with a backbone's weights in the folder VQLAB_WEIGHTS; None without one."""
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
    """Load the tensors of a file, by name. Raises UserError if there are none."""
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
