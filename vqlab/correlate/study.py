"""What a correlation study says: which settings to cross, and what makes a score's form. Data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqlab.config import Settings, merge, nest, read_recipe, validate
from vqlab.experiment_files import STUDIES, find
from vqlab.recipes import recipe_tree
from vqlab.run import RunConfig, resolve
from vqlab.types import UserError

FEWEST = 4
"""Settings from which a rank correlation says anything."""
_SCORING = "detector.scoring."


class Part(Settings):
    """One detector of a study."""

    recipe: str
    set: dict[str, Any] = {}
    """Settings that all of them share."""
    train: dict[str, tuple[Any, ...]] = {}
    """Settings to cross; each combination is trained."""
    score: tuple[dict[str, tuple[Any, ...]], ...] = ()
    """Blocks of `detector.scoring.…` to cross within each trained detector."""
    hold: tuple[str, ...] = ()
    """What makes a score's form: correlations are also given with these held fixed."""


class Study(Settings):
    """What a study file says."""

    detectors: dict[str, Part]


@dataclass(frozen=True)
class Training:
    """One detector to train, and the settings to measure it with."""

    detector: str
    config: RunConfig
    settings: tuple[tuple[dict[str, Any], RunConfig], ...]
    """What differs between the settings, by dotted path, and each resolved whole."""


def read_study(reference: str) -> tuple[str, Study]:
    """Name and content of a study: a file, or a name under experiments/studies, here or as
    shipped."""
    path = Path(reference)
    if path.suffix not in (".yaml", ".yml"):
        path = find(reference, STUDIES)
    try:
        study = validate(Study, read_recipe(path))
    except UserError as error:
        raise UserError(f"study {reference}: {error}") from None
    if not study.detectors:
        raise UserError(f"study {path} must name at least one detector; got none.")
    return path.stem, study


def plan(
    detector: str, part: Part, category: str, root: Path | None, preset: str
) -> list[Training]:
    """The trainings of a detector, all settings checked. Raises UserError for an impossible one."""
    base = recipe_tree(part.recipe, (), category, root, preset)
    for setting, value in part.set.items():
        base = merge(base, nest(setting, value))
    trainings = []
    for trained in _crossed(part.train):
        tree = _with(base, trained)
        settings = []
        for scored in [s for block in part.score or ({},) for s in _crossed(block)]:
            strangers = [key for key in scored if not key.startswith(_SCORING)]
            if strangers:
                raise UserError(
                    f"study: detectors.{detector}.score must hold {_SCORING}… only, which may "
                    f"change after training; got {strangers[0]}; move it to train."
                )
            settings.append(({**trained, **scored}, resolve(_with(tree, scored))))
        trainings.append(Training(detector, resolve(tree), tuple(settings)))
    count = sum(len(training.settings) for training in trainings)
    named = trainings[0].config.detector["name"]
    if named != detector:
        raise UserError(f"study: detectors.{detector}.recipe must be one of {detector}'s; got one "
                        f"of {named}.")  # fmt: skip
    if count < FEWEST:
        raise UserError(
            f"study: detectors.{detector} must have {FEWEST} settings or more to rank; got {count}."
        )
    return trainings


def _with(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    for setting, value in values.items():
        if "." not in setting:
            raise UserError(f"study: {setting} must be a dotted setting, e.g. training.epochs.")
        tree = merge(tree, nest(setting, value))
    return dict(tree)


def _crossed(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))
