"""The MLflow model of each kind of detector gives the results of `vqlab predict`."""

from __future__ import annotations

import base64
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call

from vqlab.recipes import recipe_tree
from vqlab.run import Recording, resolve, run
from vqlab.tracking import CHECKPOINT, Tracker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("blank_figures")]
RECIPES = ("memory_bank", "vqflow", "vqvae")
PROGRAM = """
import base64, json, sys
import mlflow, pandas
images = pandas.DataFrame({"image": [base64.b64decode(line) for line in sys.stdin]})
models = map(mlflow.pyfunc.load_model, sys.argv[1:])
print(json.dumps([model.predict(images).to_dict("records") for model in models]))
"""


@pytest.fixture(scope="module")
def models(root: Path, store: Tracker) -> list[str]:
    """The URI of a version of each recipe."""
    uris = []
    for recipe in RECIPES:
        settings = [] if recipe == "vqvae" else ["features.backbone=filters"]
        tree = recipe_tree(recipe, settings, "part", root, "tiny")
        outcome = run(resolve(tree), store, Recording(name=recipe), test=False)
        version = store.registry.register(outcome.run_id, CHECKPOINT, "part")
        uris.append(f"models:/{version.model}/{version.version}")
    return uris


def test_scores_and_verdicts_equal_those_of_predict(
    models: list[str], store: Tracker, root: Path, tmp_path: Path
) -> None:
    files = sorted((root / "part" / "test").glob("*/*.png"))
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, *models], cwd=tmp_path, capture_output=True, text=True,
        input="\n".join(base64.b64encode(file.read_bytes()).decode() for file in files),
        env={
            **os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store.root / 'mlflow.db'}",
            "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1",
        },
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    for recipe, served in zip(RECIPES, json.loads(process.stdout), strict=True):
        folder = tmp_path / recipe
        call("predict", "-m", recipe, "-o", folder, "--mlruns", store.root, *files)
        with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len({row["score"] for row in rows}) > len(rows) / 2, recipe
        assert [(row["score"], row["p_value"], row["verdict"]) for row in served] == [
            (float(row["score"]), float(row["p_value"]), row["verdict"]) for row in rows
        ], recipe
