"""The cells of a benchmark: every combination of recipe, model (of one category or all), seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from vqlab.benchmark.settings import BenchmarkFile, variants
from vqlab.config import Tree, digest, dump, flatten, merge, parse_overrides, with_settings
from vqlab.data import DataSettings, choose_categories, describe_source, find_root
from vqlab.recipes import Data, as_folders, overrides_of, recipe_tree
from vqlab.run import RunConfig, resolve
from vqlab.text import category_text, folder_name
from vqlab.types import UserError

JOINT = "joint"
_EXECUTION = ("data.root", "data.good", "data.bad", "training.device", "training.threads")
"""Settings that do not change the result of a cell."""


@dataclass(frozen=True)
class Cell:
    """One model to train and test."""

    recipe: str
    categories: tuple[str, ...]
    seed: int
    config: RunConfig

    @property
    def method(self) -> str:
        """Row of the tables that the cell belongs to: its recipe, and whether the model is
        joint."""
        return method_name(self.recipe, len(self.categories) > 1)

    @property
    def title(self) -> str:
        """Recipe, categories and seed, for messages and names of runs."""
        names = category_text(self.categories)
        if len(self.categories) > 3:
            names = f"{len(self.categories)} categories"
        return f"{self.recipe}, {names}, seed {self.seed}"


def method_name(recipe: str, joint: bool) -> str:
    """Return the name of a recipe's models of one category, or of its joint model."""
    return f"{recipe}, {JOINT}" if joint else recipe


@dataclass(frozen=True)
class Plan:
    """The cells of a benchmark, as plain values: a worker on another machine reads them."""

    name: str
    preset: str
    recipes: dict[str, Tree]
    """Resolved settings by title."""
    groups: tuple[tuple[str, ...], ...]
    """Categories of each model."""
    seeds: tuple[int, ...]
    missing: tuple[str, ...] = ()
    """Requested categories that the dataset does not have."""
    source: str = ""
    """One line naming the data that are used."""

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for group in self.groups for name in group))

    @property
    def methods(self) -> tuple[str, ...]:
        """Rows of the tables: each recipe, with joint models below those of single categories."""
        kinds = sorted({len(group) > 1 for group in self.groups})
        return tuple(method_name(recipe, joint) for recipe in self.recipes for joint in kinds)

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, those with the first seed first."""
        return tuple(
            Cell(recipe, group, seed, _cell_config(tree, group, seed))
            for seed in self.seeds
            for group in self.groups
            for recipe, tree in self.recipes.items()
        )

    def key(self, fingerprint: str) -> str:
        """Return `<name>[-<preset>]-<8 hex>`: equal plans on the same data have the same key."""
        recipes = [_relevant(tree) for tree in self.recipes.values()]
        mark = digest([list(self.recipes), recipes, self.groups, self.seeds, fingerprint])[:8]
        preset = "" if self.preset == "full" else self.preset
        return "-".join(filter(None, ["benchmark", folder_name(self.name), preset, mark]))

    @property
    def tree(self) -> Tree:
        return asdict(self)

    @classmethod
    def of(cls, tree: Tree, data: Data = None) -> Plan:
        """Return the plan of `tree`. data: the folder of the images on this machine."""
        tree = dict(tree)
        recipes = {name: as_folders(data).over(each) for name, each in tree["recipes"].items()}
        groups = tuple(tuple(group) for group in tree["groups"])
        rest = {name: tuple(tree[name]) for name in ("seeds", "missing")}
        return cls(**{**tree, **rest, "recipes": recipes, "groups": groups})


def _cell_config(tree: Tree, group: Sequence[str], seed: int) -> RunConfig:
    changes = {"data.categories": list(group), "data.joint": len(group) > 1, "training.seed": seed}
    return resolve(with_settings(tree, changes))


def _relevant(tree: Tree) -> dict[str, Any]:
    return {key: value for key, value in flatten(tree).items() if key not in _EXECUTION}


def make_plan(
    name: str,
    file: BenchmarkFile,
    *,
    data: Data = None,
    preset: str = "full",
    overrides: Sequence[str] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return the cells of a benchmark with validated settings, and the categories that the dataset
    lacks.

    overrides: for all recipes, or for one if its title is the prefix. on_progress: called with
    (images done, images in all) while the synthetic set is generated. Raises UserError for invalid
    settings, if the dataset has none of the categories, if two recipes have the same settings, and
    for settings that a benchmark does not allow.
    """
    titles = variants(file)
    several = len(titles) > 1
    recipes: dict[str, Tree] = {}
    for title, variant in titles.items():
        try:
            tree = recipe_tree(variant.recipe, (), "all", data, preset, compared=several)
            tree = with_settings(tree, {**file.set, **variant.set})
            specific = overrides_of(title, titles, overrides)
            config = resolve(merge(tree, parse_overrides(specific)))
            _require_measurable(config)
        except UserError as error:
            raise UserError(f"recipe {title}: {error}") from None
        recipes[title] = dump(config)
    _require_different(recipes)
    first = next(iter(recipes.values()))
    settings, requested, categories = _categories(name, file, first, on_progress)
    root, kind = find_root(settings)
    recipes = {t: with_settings(r, {"data.root": str(root.absolute())}) for t, r in recipes.items()}
    groups: list[tuple[str, ...]] = []
    if "each" in file.models or len(categories) == 1:
        groups += [(category,) for category in categories]
    if "joint" in file.models and len(categories) > 1:
        groups.append(categories)
    missing = tuple(each for each in requested if each not in categories)
    source = describe_source(root, kind)
    return Plan(name, preset, recipes, tuple(groups), file.seeds, missing, source)


def _categories(
    name: str, file: BenchmarkFile, tree: Tree, on_progress: Callable[[int, int], None] | None
) -> tuple[DataSettings, tuple[str, ...], tuple[str, ...]]:
    """Return the data settings, the requested categories, and those that the dataset has."""
    requested = "all" if file.categories == "all" else list(file.categories)
    settings = resolve(with_settings(tree, {"data.categories": requested})).data
    try:
        find_root(settings, on_progress)
        available = choose_categories(settings)
        return settings, available, available
    except UserError:  # some are missing
        if file.categories == "all":
            raise
    settings = resolve(with_settings(tree, {"data.categories": "all"})).data
    available = choose_categories(settings)
    categories = tuple(each for each in file.categories if each in available)
    if not categories:
        raise UserError(
            f"benchmark {name} needs at least one of its categories "
            f"({', '.join(file.categories)}); the dataset has {', '.join(available)}; select "
            "categories with --category, or another dataset with --data."
        )
    return settings, file.categories, categories


def _require_measurable(config: RunConfig) -> None:
    if config.training.select == "best_on_test":
        raise UserError(
            "training.select must not be best_on_test in a benchmark, since the test set would "
            "choose the epoch; set training.select=last."
        )
    if config.evaluation.resamples == 0:
        raise UserError(
            "evaluation.resamples must be at least 1 in a benchmark, which compares by resampling; "
            "got 0."
        )


def _require_different(recipes: dict[str, Tree]) -> None:
    titles: dict[str, str] = {}
    for title, tree in recipes.items():
        other = titles.setdefault(digest(_relevant(tree)), title)
        if other != title:
            raise UserError(
                f"recipes of a benchmark must differ; {other} and {title} have the same settings; "
                "remove one."
            )
