"""Checkpoints and training states: one safetensors file each, JSON in its header, no pickle.

Both are written to a temporary file, flushed and renamed, so that a file is always complete; a
digest in the header detects damage. Format: safetensors,
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vqlab.errors import UserError

FORMAT = 1
"""Written into every file; a file with a higher number is refused."""

CHECKPOINT = "vqlab checkpoint"
STATE = "vqlab training state"
BACKBONE = "backbone."
"""Key prefix of the backbone's state in a checkpoint."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LENGTH = struct.Struct("<Q")


def save_checkpoint(
    path: Path, detector: nn.Module, meta: Mapping[str, Any], backbone: nn.Module | None = None
) -> Path:
    """Write a detector's state dict and `meta` (plain JSON values) to `path`; returns `path`.

    A backbone's state dict goes beside it, each key after `backbone.`.
    Raises UserError where the place cannot be written (an older file there stays as it was), and
    TypeError for values that are neither a tensor nor JSON.
    """
    tensors = {}
    frozen = backbone.state_dict() if backbone is not None else {}
    state = {BACKBONE + key: value for key, value in frozen.items()}
    for key, value in [*detector.state_dict().items(), *state.items()]:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"state dict entry {key!r} must be a tensor; got {type(value).__name__}."
            )
        if key.startswith(BACKBONE) != (key in state):
            raise TypeError(f"a detector's state must not begin with {BACKBONE!r}; got {key!r}.")
        tensors[key] = value
    _write(path, CHECKPOINT, tensors, json.dumps(meta))
    return path


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict (on the CPU) and `meta` of a checkpoint; `split_state` parts the former.

    Raises UserError naming the file where it is missing, cut, damaged, not a checkpoint, or
    written by a newer vqlab.
    """
    tensors, meta = _read(path, CHECKPOINT)
    return tensors, meta


def split_state(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The state dicts of the detector and of its backbone."""
    detector = {k: value for k, value in tensors.items() if not k.startswith(BACKBONE)}
    backbone = {k.removeprefix(BACKBONE): tensors[k] for k in tensors if k not in detector}
    return detector, backbone


def save_state(path: Path, state: Mapping[str, Any]) -> Path:
    """Write a training state: dicts (keys str, int, float, bool or None), lists and tuples, nested
    as you like, of tensors and JSON values; returns `path`. Raises as `save_checkpoint` does."""
    tensors: dict[str, Tensor] = {}
    skeleton = _take_apart(state, tensors, "state")
    _write(path, STATE, tensors, json.dumps(skeleton))
    return path


def load_state(path: Path) -> dict[str, Any]:
    """What `save_state` was given, bit for bit, tensors on the CPU. Raises as `load_checkpoint`."""
    tensors, skeleton = _read(path, STATE)
    state: dict[str, Any] = _put_together(skeleton, tensors)
    return state


def _take_apart(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Encode `value` as JSON: scalars unchanged, others as [kind, content]."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value
        return ["tensor", key]
    if isinstance(value, Mapping):
        pairs = []
        for key, inner in value.items():
            if not (key is None or isinstance(key, (bool, int, float, str))):
                raise TypeError(f"{where} has the key {key!r}; keys must be JSON scalars.")
            pairs.append([key, _take_apart(inner, tensors, f"{where}[{key!r}]")])
        return ["dict", pairs]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_take_apart(v, tensors, f"{where}[{i}]") for i, v in enumerate(value)]]
    raise TypeError(
        f"{where} must be a tensor, a JSON value, a dict, a list or a tuple; "
        f"got {type(value).__name__}."
    )


def _put_together(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(skeleton, list):
        return skeleton
    kind, inside = skeleton
    if kind == "tensor":
        return tensors[inside]
    if kind == "dict":
        return {key: _put_together(value, tensors) for key, value in inside}
    values = [_put_together(value, tensors) for value in inside]
    return values if kind == "list" else tuple(values)


def _write(path: Path, kind: str, tensors: Mapping[str, Tensor], text: str) -> None:
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    plain = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
    header = {"kind": kind, "format": str(FORMAT), "json": text, "sha256": _digest(plain, text)}
    data = safetensors.torch.save(plain, metadata=header)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise UserError(
                f"{path} cannot be written ({len(data) / 1e6:.1f} MB): the disk is full; "
                "free some space and try again."
            ) from None
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; choose a writable place."
        ) from None


def _sync_folder(folder: Path) -> None:
    """Flush a rename to disk (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read(path: Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{kind} {path} does not exist; check the path.") from None
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror}.") from None
    header = _header(data)
    found = header.get("kind")
    if found not in (CHECKPOINT, STATE):
        raise UserError(
            f"{path} is not a {kind} (no header of one; it may be cut, or another program's "
            "file); give a file that vqlab wrote."
        )
    if header.get("format") != str(FORMAT):
        raise UserError(
            f"{path} has format {header.get('format')!r}, and this vqlab reads {FORMAT}; "
            "update vqlab, or train again."
        )
    if found != kind:
        raise UserError(f"{path} is a {found}; a {kind} is needed here.")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(_damaged(path, str(error))) from None
    if _digest(tensors, header["json"]) != header.get("sha256"):
        raise UserError(_damaged(path, "its contents do not match their digest"))
    return tensors, json.loads(header["json"])


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is cut or damaged ({reason}); copy it again, or train again."


def _header(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if there is none."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
        metadata = header["__metadata__"]
        return dict(metadata) if isinstance(metadata, dict) else {}
    except (struct.error, ValueError, TypeError, KeyError):
        return {}


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """sha256 over the JSON text and every tensor's name, type, shape and bytes."""
    sha = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        sha.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
