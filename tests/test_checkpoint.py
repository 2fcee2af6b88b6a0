"""Checkpoints and states: exact round trips, and rejection of damaged files."""

from __future__ import annotations

import json
import math
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import start_program
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vqlab import checkpoint
from vqlab.checkpoint import load_checkpoint, load_state, save_checkpoint, save_state
from vqlab.errors import UserError

META = {"config": {"a": [1, 2.5, None, True]}, "thresholds": {"image": 0.1 + 0.2}, "ü": "ß"}


def identical(a: object, b: object) -> bool:
    """Return whether type and values are equal recursively; tensors bit for bit (NaN equals the
    same NaN)."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        first, second = (t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
        return torch.equal(first, second)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return [*map(repr, a)] == [*map(repr, b)] and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    return repr(a) == repr(b)  # repr distinguishes -0.0 from 0.0 and is exact for floats


class Tied(nn.Module):
    """A module with special entries: tied weights, integers, scalars, None, a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("counts", torch.arange(5))
        self.register_buffer("scalar", torch.tensor(float("nan")))
        self.register_buffer("none", torch.empty(0, 4))
        self.register_buffer("strided", torch.rand(6, 4)[::2].T)
        self.register_buffer("brief", torch.rand(7).to(torch.bfloat16))
        self.register_buffer("flags", torch.tensor([True, False]))


def adam_state() -> dict[str, object]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.999))
    for _ in range(3):
        adam.zero_grad()
        model(torch.rand(5, 4)).square().mean().backward()
        adam.step()
    return {
        "model": dict(model.state_dict()),
        "optimizer": adam.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "python_rng": random.Random(3).getstate(),
        "epoch": 3,
        "best": math.inf,
        "history": [{"loss": 0.1}, {"loss": 0.1 + 0.2}],
    }


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    module = Tied()
    path = tmp_path / "new" / "folder" / "model.safetensors"
    save_checkpoint(path, module, META)
    state, meta = load_checkpoint(path)
    assert meta == META
    assert identical(dict(sorted(module.state_dict().items())), dict(sorted(state.items())))
    Tied().load_state_dict(state)
    assert os.listdir(path.parent) == [path.name]


def test_checkpoint_is_a_safetensors_file(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "m.safetensors", nn.Linear(2, 2), META)
    assert set(safetensors.torch.load_file(path)) == {"weight", "bias"}


def test_adam_state_round_trip(tmp_path: Path) -> None:
    state = adam_state()
    loaded = load_state(save_state(tmp_path / "state", state))
    assert identical(loaded, state)
    params = [nn.Parameter(torch.zeros_like(t)) for t in state["model"].values()]  # type: ignore[attr-defined]
    restored = torch.optim.Adam(params)
    restored.load_state_dict(loaded["optimizer"])
    assert identical(restored.state_dict(), state["optimizer"])


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
tensors = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]).flatmap(
    lambda kind: st.lists(st.integers(0, 3), max_size=3).map(
        lambda shape: torch.arange(math.prod(shape)).reshape(shape).to(kind)
    )
)
keys = st.integers() | st.text() | st.none() | st.floats(allow_nan=False)
trees = st.recursive(
    scalars | tensors,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(keys, trees, max_size=4))
def test_any_tree_round_trips(tmp_path_factory: pytest.TempPathFactory, tree: dict) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.getbasetemp() / "tree.state"
    assert identical(load_state(save_state(path, tree)), tree)


def test_unsupported_values_in_a_state_raise(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] must be a tensor.*got set"):
        save_state(tmp_path / "s", {"a": [1, {2}]})
    with pytest.raises(TypeError, match="key"):
        save_state(tmp_path / "s", {(1, 2): 3})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [0, 5, 8, 40, 0.5, -1])
def test_truncated_file_raises(tmp_path: Path, length: float) -> None:
    path = save_checkpoint(tmp_path / "cut.safetensors", nn.Linear(9, 9), META)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * length) if length == 0.5 else int(length)])
    with pytest.raises(UserError, match=r"cut\.safetensors.*truncated"):
        load_checkpoint(path)


def test_single_flipped_bit_is_detected(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "flip.safetensors", nn.Linear(9, 9), META)
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"flip\.safetensors is truncated or damaged"):
        load_checkpoint(path)


def test_foreign_files_raise(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    torch.save({"a": torch.zeros(2)}, foreign)
    with pytest.raises(UserError, match="foreign must be a vqlab checkpoint"):
        load_checkpoint(foreign)
    safetensors.torch.save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(UserError, match="foreign must be a vqlab checkpoint"):
        load_checkpoint(foreign)
    foreign.write_text('{"__metadata__": 3}' * 20)
    with pytest.raises(UserError, match="foreign must be a vqlab training state"):
        load_state(foreign)
    with pytest.raises(UserError, match="absent does not exist"):
        load_checkpoint(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["[" * 200_000, "no JSON", None])
def test_metadata_that_is_not_json_raises(tmp_path: Path, text: str | None) -> None:
    """Its digest is valid, because anyone can compute it."""
    path = save_checkpoint(tmp_path / "model", nn.Linear(1, 1), META)
    with safetensors.safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    del header["json"]
    header |= {} if text is None else {"json": text}
    header["sha256"] = checkpoint._digest(tensors, str(text))
    safetensors.torch.save_file(tensors, path, header)
    with pytest.raises(UserError, match="model is truncated or damaged .its description is not"):
        load_checkpoint(path)
    path.write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000)
    with pytest.raises(UserError, match="model must be a vqlab checkpoint"):
        load_checkpoint(path)


def test_checkpoint_and_state_are_distinguished(tmp_path: Path) -> None:
    state = save_state(tmp_path / "state", {"a": 1})
    with pytest.raises(UserError, match="state must be a vqlab checkpoint; got a vqlab training"):
        load_checkpoint(state)
    model = save_checkpoint(tmp_path / "model", nn.Linear(1, 1), {})
    with pytest.raises(UserError, match="model must be a vqlab training state; got a vqlab check"):
        load_state(model)


def test_future_format_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 2)
        path = save_state(tmp_path / "future", {"a": 1})
    with pytest.raises(UserError, match="future must have format 1; got '2'; update vqlab"):
        load_state(path)


def test_unwritable_path_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="model cannot be written"):
        save_checkpoint(tmp_path / "file" / "model", nn.Linear(1, 1), {})


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Set the system's limit on file sizes (bytes) to simulate a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_the_previous_file(tmp_path: Path) -> None:
    path = save_state(tmp_path / "state", {"epoch": 1})
    old = path.read_bytes()
    big = {"epoch": 2, "big": torch.zeros(100_000)}
    with largest_file(100_000), pytest.raises(UserError, match="state .* the disk is full"):
        save_state(path, big)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_full_file_system(small_disk: Path) -> None:
    path = save_state(small_disk / "state", {"epoch": 1})
    with pytest.raises(UserError, match="the disk is full"):
        save_state(path, {"epoch": 2, "big": torch.zeros(16_000_000)})
    assert load_state(path) == {"epoch": 1}
    assert [p.name for p in small_disk.iterdir()] == ["state"]


def test_kill_while_writing(tmp_path: Path) -> None:
    """After kill -9 at any time there is a complete state, the previous or a newer one."""
    path = tmp_path / "state"
    program = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from vqlab.checkpoint import save_state\n"
        "epoch = 0\n"
        "while True:\n"
        "    epoch += 1\n"
        "    save_state(Path(sys.argv[1]), {'epoch': epoch, 'x': torch.full((500_000,), epoch)})\n"
        "    print(epoch, flush=True)\n"
    )
    process = start_program(program, path, cwd=tmp_path)
    process.wait_until(lambda: process.stdout().count("\n") >= 3)
    last = int(process.kill().stdout.rpartition("\n")[0].split()[-1])
    state = load_state(path)
    assert state["epoch"] >= last
    assert (state["x"] == state["epoch"]).all()


def test_header_is_readable_json(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "m", nn.Linear(1, 1), META)
    with safetensors.safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header["kind"] == "vqlab checkpoint" and json.loads(header["json"]) == META
