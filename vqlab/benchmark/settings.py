"""Read benchmark files: which recipes, categories, models and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vqlab.config import Settings, merge, read_recipe, validate
from vqlab.experiment_files import BENCHMARKS, find
from vqlab.types import UserError

Models = Literal["each", "joint"]
"""`each`: one model per category; `joint`: one model of all categories."""


class BenchmarkFile(Settings):
    """Content of a benchmark file."""

    recipes: tuple[str, ...] | dict[str, str | dict[str, Any]] = Field(min_length=1)
    """Names or paths of recipes; or by title: a recipe, or a section with `recipe` and `set`."""
    categories: tuple[str, ...] | Literal["all"] = "all"
    """Categories that the dataset does not have are skipped, with a note."""
    models: tuple[Models, ...] = Field(default=("each", "joint"), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Values of `training.seed`."""
    set: dict[str, Any] = {}
    """Settings of all recipes, by dotted path."""


class Variant(Settings):
    """A recipe with changed settings."""

    recipe: str
    set: dict[str, Any] = {}
    """By dotted path."""


def read_benchmark(reference: str, **changes: Any) -> tuple[str, BenchmarkFile]:
    """Return name and content of a benchmark: a YAML file, or a name under experiments/benchmarks
    (local or packaged).

    changes: keys that replace those of the file; None leaves a key as it is. Raises UserError.
    """
    path = find(reference, BENCHMARKS)
    tree = merge(read_recipe(path), {k: v for k, v in changes.items() if v is not None})
    try:
        return path.stem, validate(BenchmarkFile, tree)
    except UserError as error:
        raise UserError(f"benchmark {reference}: {error}") from None


def variants(file: BenchmarkFile) -> dict[str, Variant]:
    """Return the recipes by title. Raises UserError if two have the same title."""
    if isinstance(file.recipes, dict):
        sections = {
            title: {"recipe": value} if isinstance(value, str) else value
            for title, value in file.recipes.items()
        }
        return {title: validate(Variant, tree, f"{title}.") for title, tree in sections.items()}
    titles = [Path(recipe).stem for recipe in file.recipes]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise UserError(f"benchmark: recipes must be different; got {', '.join(twice)} twice.")
    return {t: Variant(recipe=r) for t, r in zip(titles, file.recipes, strict=True)}
