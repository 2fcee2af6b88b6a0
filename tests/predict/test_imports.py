"""`vqlab predict` with a checkpoint file imports only the libraries it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PROGRAM = """
import json, sys
from vqlab.cli import main
words = sys.argv[1:]
for pictures in ("none", "all"):
    sys.argv = ["vqlab", *words, "--pictures", pictures]
    try: main()
    except SystemExit as end: assert not end.code
    print(json.dumps(list(sys.modules)), file=sys.stderr)
"""
UNNEEDED = {
    "mlflow", "optuna", "timm", "torchvision", "huggingface_hub.hf_api", "FrEIA", "numba", "scipy",
    "pandas", "sklearn", "sympy", "torch._dynamo", "onnxruntime", "matplotlib.pyplot",
    "matplotlib.figure",
}  # fmt: skip


def test_predict_imports_required_libraries_only(
    checkpoint: Path, photos: Callable[[int], Path], tmp_path: Path
) -> None:
    words = ["predict", str(photos(1)), "-m", str(checkpoint), "-o", str(tmp_path / "results")]
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lists = [line for line in done.stderr.splitlines() if line.startswith("[")]
    without, pictured = (set(json.loads(line)) for line in lists)
    assert sorted(UNNEEDED & pictured) == []
    assert "matplotlib" in pictured - without  # colour maps and fonts
