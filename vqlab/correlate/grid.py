"""Read a correlation grid: the settings to combine for each detector."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqlab.config import Settings, read_recipe, validate, with_settings
from vqlab.experiment_files import STUDIES, find
from vqlab.recipes import recipe_tree
from vqlab.run import RunConfig, resolve
from vqlab.types import UserError

MIN_SETTINGS = 4
"""Smallest number of settings for a rank correlation."""
_SCORING = "detector.scoring."


class DetectorGrid(Settings):
    """Settings to combine for one detector."""

    recipe: str
    set: dict[str, Any] = {}
    """Settings shared by all."""
    train: dict[str, tuple[Any, ...]] = {}
    """Settings to combine; one training per combination."""
    score: tuple[dict[str, tuple[Any, ...]], ...] = ()
    """Blocks of `detector.scoring.…` to combine on each trained detector."""
    hold: tuple[str, ...] = ()
    """Settings to hold fixed in a second set of correlations."""


class Grid(Settings):
    """Content of a grid file."""

    detectors: dict[str, DetectorGrid]


@dataclass(frozen=True)
class Training:
    """One training, and the settings to measure the trained detector with."""

    detector: str
    config: RunConfig
    settings: tuple[tuple[dict[str, Any], RunConfig], ...]
    """Combined values by dotted path, and the resolved config."""


def read_grid(reference: str) -> tuple[str, Grid]:
    """Return name and content of a grid: a YAML file, or a name under experiments/studies (local or
    packaged)."""
    path = find(reference, STUDIES)
    try:
        grid = validate(Grid, read_recipe(path))
    except UserError as error:
        raise UserError(f"grid {reference}: {error}") from None
    if not grid.detectors:
        raise UserError(f"grid {path} must name at least one detector; got none.")
    return path.stem, grid


def plan(
    detector: str, part: DetectorGrid, category: str, root: Path | None, preset: str
) -> list[Training]:
    """Return the trainings of a detector with validated settings. Raises UserError."""
    base = with_settings(recipe_tree(part.recipe, (), category, root, preset), part.set)
    trainings = []
    for train_values in _cross(part.train):
        tree = _with(base, train_values)
        settings = []
        for score_values in [v for block in part.score or ({},) for v in _cross(block)]:
            invalid = [key for key in score_values if not key.startswith(_SCORING)]
            if invalid:
                raise UserError(
                    f"grid: detectors.{detector}.score must contain only {_SCORING}…; got "
                    f"{invalid[0]}, which must not change after training; move it to train."
                )
            config = resolve(_with(tree, score_values))
            settings.append(({**train_values, **score_values}, config))
        trainings.append(Training(detector, resolve(tree), tuple(settings)))
    count = sum(len(training.settings) for training in trainings)
    name = trainings[0].config.detector["name"]
    if name != detector:
        raise UserError(
            f"grid: detectors.{detector}.recipe must be a recipe of {detector}; got one of {name}."
        )
    if count < MIN_SETTINGS:
        raise UserError(
            f"grid: detectors.{detector} must have at least {MIN_SETTINGS} settings; got {count}."
        )
    return trainings


def _with(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    for setting in values:
        if "." not in setting:
            raise UserError(
                f"grid: a setting must be a dotted path, e.g. training.epochs; got {setting}."
            )
    return with_settings(tree, values)


def _cross(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
