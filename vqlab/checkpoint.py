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
    """Write a detector's state dict and `meta` (JSON values) to `path`; return `path`.

    Keys of the backbone's state dict get the prefix `backbone.`. Raises UserError if the file
    cannot be written (an existing file is not changed), and TypeError for values that are neither
    tensors nor JSON.
    """
    tensors = dict(detector.state_dict())
    for key in tensors:
        if key.startswith(BACKBONE):
            raise TypeError(f"a detector's state must not begin with {BACKBONE!r}; got {key!r}.")
    if backbone is not None:
        tensors |= {BACKBONE + key: value for key, value in backbone.state_dict().items()}
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"state dict entry {key!r} must be a tensor; got {type(value).__name__}."
            )
    _write(path, CHECKPOINT, tensors, json.dumps(meta))
    return path


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the state dict (on the CPU) and `meta` of a checkpoint; see also `split_state`.

    Raises UserError if the file is missing, truncated, damaged, not a checkpoint, or written by a
    newer vqlab.
    """
    return _load(path, CHECKPOINT)


def split_state(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state dicts of the detector and of its backbone."""
    detector = {key: value for key, value in tensors.items() if not key.startswith(BACKBONE)}
    backbone = {k.removeprefix(BACKBONE): v for k, v in tensors.items() if k not in detector}
    return detector, backbone


def save_state(path: Path, state: Mapping[str, Any]) -> Path:
    """Write a training state: nested dicts (keys str, int, float, bool or None), lists and tuples
    of tensors and JSON values; return `path`. Raises as `save_checkpoint`."""
    tensors: dict[str, Tensor] = {}
    _write(path, STATE, tensors, json.dumps(_encode(state, tensors, "state")))
    return path


def load_state(path: Path) -> dict[str, Any]:
    """Return the state that `save_state` wrote, bit for bit, with tensors on the CPU. Raises as
    `load_checkpoint`."""
    tensors, encoded = _load(path, STATE)
    state: dict[str, Any] = _decode(encoded, tensors)
    return state


def _encode(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Encode `value` as JSON: scalars unchanged, others as [kind, content]; collect its tensors."""
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
            pairs.append([key, _encode(inner, tensors, f"{where}[{key!r}]")])
        return ["dict", pairs]
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_encode(v, tensors, f"{where}[{i}]") for i, v in enumerate(value)]]
    raise TypeError(
        f"{where} must be a tensor, a JSON value, a dict, a list or a tuple; "
        f"got {type(value).__name__}."
    )


def _decode(encoded: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Invert `_encode`."""
    if not isinstance(encoded, list):
        return encoded
    kind, content = encoded
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(value, tensors) for key, value in content}
    values = [_decode(value, tensors) for value in content]
    return values if kind == "list" else tuple(values)


def _write(path: Path, kind: str, tensors: Mapping[str, Tensor], text: str) -> None:
    # Clone, because safetensors refuses tensors that share memory (tied weights).
    clones = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
    header = {"kind": kind, "format": str(FORMAT), "json": text, "sha256": _digest(clones, text)}
    data = safetensors.torch.save(clones, metadata=header)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise UserError(
                f"{path} cannot be written ({len(data) / 1e6:.1f} MB): the disk is full; "
                "free some space and re-run the command."
            ) from None
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; choose a writable path."
        ) from None


def _sync_folder(folder: Path) -> None:
    """Flush a rename to disk (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _load(path: Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{kind} {path} does not exist; check the path.") from None
    except OSError as error:
        raise UserError(f"{kind} {path} cannot be read: {error.strerror}.") from None
    header = _header(data)
    if header.get("kind") not in (CHECKPOINT, STATE):
        raise UserError(
            f"{path} must be a {kind}; its header is missing, so it is truncated or was written by "
            "another program; choose a file that vqlab wrote."
        )
    if header.get("format") != str(FORMAT):
        raise UserError(
            f"{path} must have format {FORMAT}; got {header.get('format')!r}; update vqlab, or "
            "train again."
        )
    if header["kind"] != kind:
        raise UserError(f"{path} must be a {kind}; got a {header['kind']}.")
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise UserError(_damaged(path, str(error))) from None
    text = str(header.get("json"))
    if _digest(tensors, text) != header.get("sha256"):
        raise UserError(_damaged(path, "its contents do not match their digest"))
    try:
        return tensors, json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(_damaged(path, "its description is not JSON")) from None


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is truncated or damaged ({reason}); copy it again, or train again."


def _header(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty if there is none."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        header = json.loads(data[_LENGTH.size : _LENGTH.size + length])
        metadata = header["__metadata__"]
        return dict(metadata) if isinstance(metadata, dict) else {}
    except (struct.error, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 of the JSON text and of name, type, shape and bytes of every tensor."""
    sha = hashlib.sha256(text.encode())
    for key in sorted(tensors):
        tensor = tensors[key]
        sha.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
