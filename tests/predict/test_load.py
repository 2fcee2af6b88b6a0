"""References to models: checkpoint files of any name, and what other files are."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.predict import load_model


def test_checkpoint_file_may_have_any_name(model: Model, checkpoint: Path, tmp_path: Path) -> None:
    for name in ("best.ckpt", "model", "model.SAFETENSORS"):
        copy = shutil.copy(checkpoint, tmp_path / name)
        assert load_model(str(copy), None, tmp_path / "mlruns").digest == model.digest
    with pytest.raises(UserError, match="best.ckpt must be trained on bottle"):
        load_model(str(tmp_path / "best.ckpt"), "bottle", tmp_path / "mlruns")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.onnx", "is a model exported to ONNX; score images with `python -m vqlab.runtime"),
        ("model.xml", "is a model exported to OpenVINO"),
        ("model.pt", "is a file of PyTorch"),
        ("notes.txt", "must be a vqlab checkpoint; its header is missing"),
        ("folder/", "is a folder"),
    ],
)
def test_other_files_are_named(name: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.write_bytes(b"no checkpoint")
    with pytest.raises(UserError) as error:
        load_model(str(path), None, tmp_path / "mlruns")
    assert f"{path} {what}" in str(error.value)
    assert not (tmp_path / "mlruns").exists()


def test_champion_needs_a_category(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"choose one with --category \(e\.g\. cable\)"):
        load_model("champion", None, tmp_path / "mlruns")


def test_missing_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tracked runs"):
        load_model(str(tmp_path / "none.onnx"), None, tmp_path / "mlruns")
