"""The recipes that a sweep searches, each with its own space, on the same data and objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqlab.config import Settings, Tree, digest, dump, flatten, merge, nest, read_recipe, validate
from vqlab.data import Splits
from vqlab.experiment_files import SWEEPS, locate
from vqlab.run import each_model, resolve
from vqlab.sweep.space.compile import Plan, plan
from vqlab.sweep.space.schema import Space, checked_objectives, make_space
from vqlab.text import category_text, folder_name
from vqlab.types import UserError

_ALIKE = ("data", "evaluation", "threshold")
"""Sections that decide what a trial's figures mean: all recipes of a study have the same."""


@dataclass(frozen=True)
class Spaces:
    """What a study of several recipes searches."""

    name: str
    """The study's, in place of a detector's."""
    recipes: dict[str, Space]
    """By the recipe's name, in the order of their first trials."""

    @property
    def objective(self) -> str:
        """The validation metric that chooses between them."""
        return next(iter(self.recipes.values())).objective

    @property
    def tree(self) -> Tree:
        """What `make_spaces` makes these spaces of."""
        return {"recipes": {recipe: space.tree for recipe, space in self.recipes.items()}}


class _SpacesFile(Settings):
    objective: str | tuple[str, ...] | None = None
    """None: the one that all of their spaces name."""
    recipes: dict[str, str | dict[str, Any]]
    """A space file's name (beside this one) or path, or the space itself."""


def read_space(path: Path) -> Space | Spaces:
    """The space, or with `recipes` the spaces, that a YAML file describes. Raises UserError, one
    sentence per fault."""
    try:
        tree = read_recipe(path)
    except UserError as error:
        raise UserError(f"sweep space: {error}") from None
    return make_spaces(tree, path.stem, path.parent) if "recipes" in tree else make_space(tree)


def make_spaces(tree: Mapping[str, Any], name: str, folder: Path = Path()) -> Spaces:
    """Spaces from `{"objective": …, "recipes": {recipe: file or space}}`.

    folder: where spaces that are given by name lie, if not in experiments/sweeps.
    """
    raw = validate(_SpacesFile, tree)
    if len(raw.recipes) < 2:
        raise UserError(
            f"space {name} must name two recipes or more to compare; got {len(raw.recipes)}; sweep "
            "one recipe by its own name."
        )
    recipes = {}
    for recipe, given in raw.recipes.items():
        own = _one_space(recipe, given, folder)
        names = own.objectives if raw.objective is None else checked_objectives(raw.objective)
        recipes[recipe] = replace(own, objectives=names)
    objectives = {recipe: "+".join(space.objectives) for recipe, space in recipes.items()}
    if len(set(objectives.values())) > 1:
        raise UserError(
            f"recipes of one study must have one objective; got {_each(objectives)}; give {name} "
            "an objective of its own, which then holds for all."
        )
    return Spaces(name, recipes)


def _one_space(recipe: str, given: str | dict[str, Any], folder: Path) -> Space:
    if isinstance(given, str):
        path = Path(given)
        if path.suffix not in (".yaml", ".yml"):
            beside = folder / f"{given}.yaml"
            path = beside if beside.is_file() else locate(given, SWEEPS) or beside
        found = read_space(path)
        if isinstance(found, Spaces):
            raise UserError(f"recipe {recipe} must have a space of its own; {given} is of several.")
        return found
    try:
        return make_space(given)
    except UserError as error:
        raise UserError(f"recipe {recipe}: {error}") from None


@dataclass(frozen=True)
class Comparison:
    """The recipes of a sweep, each with its space checked against its settings."""

    name: str
    """The detector's, or that of the file that names several recipes."""
    plans: Mapping[str, Plan]
    """By recipe; a sweep of one recipe has it under the empty name."""

    def __getitem__(self, recipe: str) -> Plan:
        return self.plans[recipe]

    @property
    def first(self) -> Plan:
        """Any of them, for what all have alike: data, objective."""
        return next(iter(self.plans.values()))

    @property
    def objective(self) -> str:
        """The validation metric that chooses the winner."""
        return self.first.space.objective

    @property
    def objectives(self) -> tuple[str, ...]:
        """That metric and, for a Pareto front, others."""
        return self.first.space.objectives

    @property
    def tree(self) -> Tree:
        """What a worker makes these spaces of: as searched here, whatever is available there."""
        if "" in self.plans:
            return self.first.space.tree
        return Spaces(self.name, {name: plan.space for name, plan in self.plans.items()}).tree

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of the spaces, each sentence once."""
        of: dict[str, list[str]] = {}
        for recipe, checked in self.plans.items():
            if checked.note:
                of.setdefault(checked.note, []).append(recipe)
        return tuple(
            ", ".join(recipes) + (": " if recipes != [""] else "") + note
            for note, recipes in of.items()
        )

    def sweep_name(self, splits: Splits, preset: str) -> str:
        """`<category>-<name>[-<preset>]-<8 hex>`: the same spaces, settings, objective and data
        give the same name."""
        marks: list[Any] = self.first.marks
        if "" not in self.plans:
            marks = [{recipe: plan.marks for recipe, plan in self.plans.items()}]
        objective = self.objective if len(self.objectives) == 1 else list(self.objectives)
        mark = digest([objective, *marks, splits.fingerprint])[:8]
        return f"{self.base_name(splits, preset)}-{mark}"

    def base_name(self, splits: Splits, preset: str) -> str:
        """The part of that name which a changed space or data set leaves alone."""
        parts = [folder_name(category_text(splits.categories)), self.name, preset]
        return "-".join(part for part in parts if part)


def make_comparison(space: Space | Spaces, tree: Tree) -> Comparison:
    """Check spaces against the settings of their recipes, before any work.

    tree: the recipe's; for `Spaces` a tree for each recipe, by its name. Raises UserError for what
    `plan` refuses, for several models at once, for recipes that would not be judged alike.
    """
    if isinstance(space, Space):
        only = _plan_for_one_model(space, tree)
        return Comparison(str(only.config.detector["name"]), {"": only})
    plans = {}
    for recipe, own in space.recipes.items():
        try:
            plans[recipe] = _plan_for_one_model(own, tree[recipe])
        except UserError as error:
            raise UserError(f"recipe {recipe}: {error}") from None
    _check_alike(plans)
    return Comparison(space.name, plans)


def _plan_for_one_model(space: Space, tree: Tree) -> Plan:
    models = each_model(resolve(tree))
    if len(models) != 1:
        raise UserError(
            f"a sweep must be about one model; got {len(models)} categories: sweep them one by "
            "one, or as one model with data.joint=true."
        )
    categories = list(models[0].data.categories)
    return plan(space, merge(tree, nest("data.categories", categories)))


def _check_alike(plans: Mapping[str, Plan]) -> None:
    """Raise UserError where figures of different recipes could not be compared."""
    for recipe, checked in plans.items():
        for setting in checked.sampled:
            if setting.partition(".")[0] in _ALIKE:
                raise UserError(
                    f"recipe {recipe}: space {setting} must not be searched beside other recipes, "
                    "which are compared on the same images; set it for all of them."
                )
    settings = {recipe: flatten(dump(plan.config)) for recipe, plan in plans.items()}
    for key in sorted(set().union(*settings.values())):
        values = {recipe: own.get(key) for recipe, own in settings.items()}
        differ = any(value != next(iter(values.values())) for value in values.values())
        if differ and key.partition(".")[0] in _ALIKE:
            raise UserError(
                f"recipes of one study must have the same {key}, or their figures could not be "
                f"compared; got {_each(values)}; set {key}=VALUE for all of them."
            )


def _each(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{recipe} {value}" for recipe, value in values.items())
