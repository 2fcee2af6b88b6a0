"""Ctrl-C in a process: the run ends as KILLED, and the message explains how to resume."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import start_command

from vqlab.config import merge
from vqlab.tracking import Tracker


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
