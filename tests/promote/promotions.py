"""Helpers for promotions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_set import tiny_recipe

from vqlab.tracking import Tracker

METRIC = "test/image_auroc"
Tree = dict[str, Any]

Train = Callable[..., str]


def baseline(root: Path, category: str = "part") -> Tree:
    recipe = tiny_recipe(root, category, epochs=0)
    return {**recipe, "detector": {"name": "mean_image"}}


def champion(tracker: Tracker) -> int | None:
    version = tracker.registry.by_alias("part")
    return version.version if version else None
