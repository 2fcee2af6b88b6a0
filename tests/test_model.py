"""Loading a model needs neither charts nor a tracking store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from vqlab.data import load_dataset
from vqlab.run import calibrate_and_assess, make_trainer, resolve
from vqlab.training import choose_device

LOAD = """
import json, sys
import numpy as np
import vqlab
model = vqlab.load(sys.argv[1])
score = model.score(np.zeros((32, 32, 3), np.uint8)).score
heavy = {"matplotlib", "mlflow", "optuna", "plotly", "timm", "typer"} & set(sys.modules)
print(json.dumps([score, sorted(heavy)]))
"""


def test_a_fresh_process_loads_and_scores_without_heavy_libraries(
    root: Path, tmp_path: Path
) -> None:
    data = {"root": str(root), "categories": ["part"], "image_size": 32}
    config = resolve({"data": data, "detector": "mean_image", "training": {"epochs": 0}})
    splits = load_dataset(config.data)
    trainer = make_trainer(config, splits, choose_device(config.training))
    trainer.fit(lambda epoch, metrics: None)
    calibrate_and_assess(config, trainer, splits, "none")[0].save(tmp_path / "model.safetensors")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    score, heavy = json.loads(done.stdout)
    assert score > 0 and heavy == []
