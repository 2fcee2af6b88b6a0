"""`vqlab predict` with a checkpoint file imports no library that it does not need."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
from vqlab.cli import main
try: main()
except SystemExit as end: assert not end.code
print(json.dumps(list(sys.modules)), file=sys.stderr)
"""
UNNEEDED = {
    "mlflow", "optuna", "timm", "torchvision", "huggingface_hub.hf_api", "FrEIA", "numba", "scipy",
    "pandas", "sklearn", "sympy", "torch._dynamo", "onnxruntime", "matplotlib.pyplot",
    "matplotlib.figure",
}  # fmt: skip


@pytest.mark.parametrize("pictures", ["all", "none"])
def test_predict_imports_what_it_needs(
    checkpoint: Path, photos: Callable[[int], Path], tmp_path: Path, pictures: str
) -> None:
    words = ["predict", str(photos(1)), "-m", str(checkpoint), "-o", str(tmp_path / "results")]
    command = [sys.executable, "-c", PROGRAM, *words, "--pictures", pictures]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    assert sorted(UNNEEDED & modules) == []
    assert ("matplotlib" in modules) == (pictures == "all")  # colour maps and fonts
