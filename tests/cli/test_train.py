"""`vqlab train`: interruption, and runs without training epochs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import call, start_command

from vqlab.config import merge
from vqlab.tracking import NOTE, Tracker


@pytest.mark.usefixtures("empty_mlruns")
def test_ctrl_c_prints_how_to_resume(small: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge(small, {"training": {"epochs": 5000}})))
    process = start_command("train", recipe, cwd=tmp_path)
    process.wait_until(lambda: list(tmp_path.glob("mlruns/runs/*/state.safetensors")))
    os.kill(process.pid, signal.SIGINT)
    status, _, errors = process.result()
    assert status == 130
    (record,) = Tracker.open(tmp_path / "mlruns").runs()
    assert record.status == "KILLED"
    assert f"vqlab train --resume {record.run_id[:12]}" in errors and "Traceback" not in errors


@pytest.mark.usefixtures("empty_mlruns", "blank_figures")
@pytest.mark.parametrize("detector", ["vqvae", "mean_image"])
def test_no_epochs_are_stated(small: dict[str, Any], tmp_path: Path, detector: str) -> None:
    sections = small["detector"] if detector == "vqvae" else {"name": detector}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**small, "detector": sections}))
    store = tmp_path / "mlruns"
    arguments = ["train", recipe, "training.epochs=0", "--mlruns", store, "--results", tmp_path]
    printed = " ".join(call(*arguments).split())
    assert f"{detector} cable: fitted without training epochs (training.epochs=0)" in printed
    untrained = "With training.epochs=0 the detector keeps its initial weights"
    assert (untrained in printed) == (detector == "vqvae")
    (record,) = Tracker.open(store).runs()
    assert (untrained in record.tags[NOTE]) == (detector == "vqvae")
