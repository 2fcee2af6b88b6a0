"""A benchmark of small recipes on the tiny set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from tiny_set import tiny_recipe

from vqlab.benchmark import Plan, make_plan, read_benchmark


def write_benchmark(folder: Path, root: Path, **changes: Any) -> Path:
    """Write two variants of the baseline and a VQ-VAE; `changes` replace keys of the file."""
    recipe = tiny_recipe(root, epochs=0)
    recipe["detector"] = {"name": "mean_image"}
    (folder / "baseline.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "vqvae.yaml").write_text(yaml.safe_dump(tiny_recipe(root, epochs=3)))
    baseline = str(folder / "baseline.yaml")
    tree = {
        "recipes": {
            "plain": baseline,
            "<b>smooth</b>": {"recipe": baseline, "set": {"detector.scoring.smoothing": 0.1}},
        },
        "categories": ["part", "other"],
        "models": ["each", "joint"],
        "seeds": [0, 1],
        **changes,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def plan_of(path: Path, root: Path) -> Plan:
    name, file = read_benchmark(str(path))
    return make_plan(name, file, data=root)
