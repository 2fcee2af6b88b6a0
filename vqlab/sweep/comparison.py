"""The recipes that a sweep searches, each with its own space, on the same data and objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqlab.config import Settings, Tree, digest, dump, flatten, merge, nest, read_recipe, validate
from vqlab.data import Splits
from vqlab.experiment_files import SWEEPS, locate
from vqlab.run import model_configs, resolve
from vqlab.sweep.space.compile import Plan, plan
from vqlab.sweep.space.schema import Space, checked_objectives, make_space
from vqlab.text import category_text, folder_name
from vqlab.types import UserError

_ALIKE = ("data", "evaluation", "threshold")
"""Sections that affect metrics: they must be equal in all recipes of a comparison."""
_MAY_DIFFER = ("data.resize",)
"""Settings of these sections that may differ between recipes, since the images are the same."""


@dataclass(frozen=True)
class Spaces:
    """Search spaces of several recipes that are compared."""

    name: str
    """Name of the comparison."""
    recipes: dict[str, Space]
    """Spaces by recipe, in the order of their first trials."""

    @property
    def objective(self) -> str:
        """The validation metric that selects the winner."""
        return next(iter(self.recipes.values())).objective

    @property
    def tree(self) -> Tree:
        """The input of `make_spaces`."""
        return {"recipes": {recipe: space.tree for recipe, space in self.recipes.items()}}


class _SpacesFile(Settings):
    objective: str | tuple[str, ...] | None = None
    """None: the objective of the spaces, which must agree."""
    recipes: dict[str, str | dict[str, Any]]
    """By recipe: the space, or the name (in the same folder) or path of its file."""


def read_space(path: Path) -> Space | Spaces:
    """Return the space, or with `recipes` the spaces, of a YAML file. Raises UserError."""
    try:
        tree = read_recipe(path)
    except UserError as error:
        raise UserError(f"sweep space: {error}") from None
    return make_spaces(tree, path.stem, path.parent) if "recipes" in tree else make_space(tree)


def make_spaces(tree: Mapping[str, Any], name: str, folder: Path = Path()) -> Spaces:
    """Return the spaces of `{"objective": …, "recipes": {recipe: file or space}}`.

    folder: searched for spaces given by name, before experiments/sweeps.
    """
    raw = validate(_SpacesFile, tree)
    if len(raw.recipes) < 2:
        raise UserError(
            f"space {name} must list at least two recipes to compare; got {len(raw.recipes)}; to "
            "sweep one recipe, use its name."
        )
    recipes = {}
    for recipe, value in raw.recipes.items():
        space = _space_of(recipe, value, folder)
        names = space.objectives if raw.objective is None else checked_objectives(raw.objective)
        recipes[recipe] = replace(space, objectives=names)
    objectives = {recipe: "+".join(space.objectives) for recipe, space in recipes.items()}
    if len(set(objectives.values())) > 1:
        raise UserError(
            f"compared recipes must have the same objective; got {_each(objectives)}; set an "
            f"objective in {name}, which then applies to all."
        )
    return Spaces(name, recipes)


def _space_of(recipe: str, value: str | dict[str, Any], folder: Path) -> Space:
    if isinstance(value, str):
        path = Path(value)
        if path.suffix not in (".yaml", ".yml"):
            local = folder / f"{value}.yaml"
            path = local if local.is_file() else locate(value, SWEEPS) or local
        space = read_space(path)
        if isinstance(space, Spaces):
            raise UserError(
                f"recipe {recipe} must have the space of one recipe; {value} has several."
            )
        return space
    try:
        return make_space(value)
    except UserError as error:
        raise UserError(f"recipe {recipe}: {error}") from None


@dataclass(frozen=True)
class Comparison:
    """The recipes of a sweep, each with its space checked against its settings."""

    name: str
    """Name of the detector, or of the file with several recipes."""
    plans: Mapping[str, Plan]
    """By recipe; the empty name in a sweep of one recipe."""
    preset: str = ""
    """Label of the settings, in the name of the sweep; empty: that of full settings."""

    def __getitem__(self, recipe: str) -> Plan:
        return self.plans[recipe]

    @property
    def first(self) -> Plan:
        """The first plan, for everything that all share: data, objective."""
        return next(iter(self.plans.values()))

    @property
    def objective(self) -> str:
        """The validation metric that selects the winner."""
        return self.first.space.objective

    @property
    def objectives(self) -> tuple[str, ...]:
        """That metric and, for a Pareto front, further ones."""
        return self.first.space.objectives

    @property
    def tree(self) -> Tree:
        """The input of `make_space` or `make_spaces`, with the available backbones."""
        if "" in self.plans:
            return self.first.space.tree
        return Spaces(self.name, {name: plan.space for name, plan in self.plans.items()}).tree

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about the spaces, each sentence once."""
        of: dict[str, list[str]] = {}
        for recipe, checked in self.plans.items():
            if checked.note:
                of.setdefault(checked.note, []).append(recipe)
        return tuple(
            ", ".join(recipes) + (": " if recipes != [""] else "") + note
            for note, recipes in of.items()
        )

    def sweep_name(self, splits: Splits) -> str:
        """`<category>-<name>[-<preset>]-<8 hex>`: the same spaces, settings, objective and data
        give the same name."""
        marks: list[Any] = self.first.marks
        if "" not in self.plans:
            marks = [{recipe: plan.marks for recipe, plan in self.plans.items()}]
        objective = self.objective if len(self.objectives) == 1 else list(self.objectives)
        mark = digest([objective, *marks, splits.fingerprint])[:8]
        return f"{self.base_name(splits)}-{mark}"

    def base_name(self, splits: Splits) -> str:
        """Return the part of that name that does not depend on space, settings and data."""
        parts = [folder_name(category_text(splits.categories)), self.name, self.preset]
        return "-".join(part for part in parts if part)


def make_comparison(space: Space | Spaces, tree: Tree, preset: str = "") -> Comparison:
    """Check spaces against the settings of their recipes.

    tree: settings of the recipe; for `Spaces`, settings by recipe. preset: see `Comparison`. Raises
    UserError for what `plan` refuses, for several models, for recipes whose metrics would not be
    comparable.
    """
    if isinstance(space, Space):
        only = _plan_for_one_model(space, tree)
        return Comparison(str(only.config.detector["name"]), {"": only}, preset)
    plans = {}
    for recipe, single in space.recipes.items():
        try:
            plans[recipe] = _plan_for_one_model(single, tree[recipe])
        except UserError as error:
            raise UserError(f"recipe {recipe}: {error}") from None
    _check_alike(plans)
    return Comparison(space.name, plans, preset)


def _plan_for_one_model(space: Space, tree: Tree) -> Plan:
    models = model_configs(resolve(tree))
    if len(models) != 1:
        raise UserError(
            f"a sweep must search one model; got {len(models)} categories; sweep them one at a "
            "time, or as one model with data.joint=true."
        )
    categories = list(models[0].data.categories)
    return plan(space, merge(tree, nest("data.categories", categories)))


def _check_alike(plans: Mapping[str, Plan]) -> None:
    """Raise UserError if metrics of different recipes are not comparable."""
    for recipe, checked in plans.items():
        for setting in checked.sampled:
            if setting.partition(".")[0] in _ALIKE and setting not in _MAY_DIFFER:
                raise UserError(
                    f"recipe {recipe}: space {setting} must not be searched in a comparison, "
                    "because all recipes are compared on the same images; set it for all of them."
                )
    settings = {recipe: flatten(dump(plan.config)) for recipe, plan in plans.items()}
    for key in sorted(set().union(*settings.values())):
        values = {recipe: flat.get(key) for recipe, flat in settings.items()}
        differ = any(value != next(iter(values.values())) for value in values.values())
        if differ and key.partition(".")[0] in _ALIKE and key not in _MAY_DIFFER:
            raise UserError(
                f"compared recipes must have the same {key}, or their metrics are not comparable; "
                f"got {_each(values)}; set {key}=VALUE for all of them."
            )


def _each(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{recipe} {value}" for recipe, value in values.items())
