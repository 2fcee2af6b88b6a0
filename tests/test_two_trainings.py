"""Two trainings on the same data that start at once in a store that is not there yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_set import write_tiny_set

from vqlab.tracking import Tracker


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["mean_image", "vqvae"])
def test_two_trainings_at_once(tmp_path: Path, recipe: str) -> None:
    data = write_tiny_set(tmp_path / "data")
    command = [sys.executable, "-m", "vqlab", "train", recipe, "training.epochs=1"]
    command += ["--preset", "tiny", "-d", str(data), "-c", "part", "data.image_size=32"]
    command += ["--mlruns", str(tmp_path / "mlruns"), "--output", str(tmp_path / "results")]
    around = {**os.environ, "VQLAB_CACHE": str(tmp_path / "cache")}
    both = [
        subprocess.Popen(
            command, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = Tracker.open(tmp_path / "mlruns").runs()
    assert [run.status for run in runs] == ["FINISHED"] * 2
    assert not any("vqlab.failure" in run.tags or "vqlab.not_logged" in run.tags for run in runs)
    assert runs[0].metrics["test/image_auroc"] == runs[1].metrics["test/image_auroc"]
    assert all(run.checkpoint().is_file() for run in runs)
