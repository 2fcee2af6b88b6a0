"""Ctrl-C in a real process: the run ends as KILLED, and the sentence says how to go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from vqlab.config import merge
from vqlab.tracking import Tracker


def test_ctrl_c_prints_how_to_resume(small: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(merge(small, {"training": {"epochs": 5000}})))
    process = subprocess.Popen(
        [sys.executable, "-m", "vqlab", "train", str(recipe), "--mlruns", "ml"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("ml/runs/*/state.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    (record,) = Tracker.open(tmp_path / "ml").runs()
    assert record.status == "KILLED"
    assert f"vqlab train --resume {record.run_id[:12]}" in errors and "Traceback" not in errors
