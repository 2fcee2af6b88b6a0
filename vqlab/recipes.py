"""Resolve recipes: base, recipe, preset, options and overrides; later ones take precedence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqlab.config import Tree, merge, nest, parse_overrides, read_recipe
from vqlab.errors import UserError
from vqlab.experiment_files import LOCAL, PRESETS, find, hint, locate, names, shipped

ALL = "all"
"""Instead of a recipe: compare several recipes (sweeps only)."""
BASE = "base"
"""Key of a recipe with the recipe that it extends."""


class Folders(NamedTuple):
    """Location of the images: a dataset, or a folder of normal and optionally one of anomalous
    images."""

    root: Path | str | None = None
    good: Path | str | None = None
    bad: Path | str | None = None

    def over(self, tree: Mapping[str, Any]) -> Tree:
        """Return `tree` with these images instead of its own; unchanged if none are given.

        Raises UserError where a data set and a folder are given, or bad images alone.
        """
        if self.root is not None and (self.good is not None or self.bad is not None):
            raise UserError(
                "--data must be a data set, --good and --bad folders of images; got both kinds; "
                "leave one out."
            )
        if self.bad is not None and self.good is None:
            raise UserError(f"--bad {self.bad} must have good images beside it; add --good FOLDER.")
        if self == Folders():
            return dict(tree)
        texts = {key: path and str(path) for key, path in self._asdict().items()}
        if self.good is None and not {"good", "bad"} & set(tree.get("data", {})):
            texts = {"root": texts["root"]}
        return merge(tree, {"data": texts})

    def absolute(self) -> Folders:
        """Return the same folders as absolute paths."""
        return Folders(*(path and Path(path).absolute() for path in self))

    @property
    def category(self) -> str | None:
        """The name of the folder of good images, which its category has unless it is named."""
        return None if self.good is None else Path(self.good).expanduser().absolute().name


Data = Path | str | Folders | None
"""A data set's folder, or `Folders`."""


def as_folders(data: Data) -> Folders:
    """Return `Folders`, in which a path alone is a data set."""
    return data if isinstance(data, Folders) else Folders(data)


def recipe_path(recipe: str) -> Path:
    """Return the file that a recipe's path or name means: a file of that path, else the one of that
    name in `experiments/`, here or as shipped. Raises UserError where there is neither."""
    path = Path(recipe)
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"recipe {path} does not exist; {hint(path.stem, names())}")
    return find(recipe)


def recipe_tree(
    recipe: str,
    overrides: Sequence[str] = (),
    category: str | None = None,
    data: Data = None,
    preset: str = "full",
    *,
    compared: bool = False,
) -> Tree:
    """Return the tree of a recipe: base, recipe, preset, options, overrides, in this order.

    compared: also apply the preset's section `comparison`.
    """
    if "=" in recipe:
        raise UserError(
            f"the first argument must be a recipe; got the setting {recipe!r}; write e.g. "
            f"`vqlab train vqvae {recipe}`."
        )
    if recipe == ALL and not Path(recipe).is_file() and locate(recipe) is None:
        raise UserError(
            "the recipe must be one recipe; got all, which only a sweep compares; name one, e.g. "
            "vqvae, or write `vqlab sweep all`."
        )
    tree = _based(recipe_path(recipe), ())
    if preset != "full":
        tree = merge(tree, _preset(preset, tree, compared))
    folders = as_folders(data)
    category = category or folders.category
    if category is not None:
        tree = merge(tree, nest("data.categories", "all" if category == "all" else [category]))
    tree = folders.over(tree)
    return merge(tree, parse_overrides(overrides))


def recipe_trees(
    recipes: Iterable[str],
    overrides: Sequence[str] = (),
    category: str | None = None,
    data: Data = None,
    preset: str = "full",
) -> dict[str, Tree]:
    """The tree of each of several recipes, by name; `vqflow.training.epochs=3` overrides the one of
    that name alone, `training.epochs=3` all of them."""
    names = list(recipes)
    trees = {}
    for recipe in names:
        others = tuple(f"{name}." for name in names if name != recipe)
        selected = [word for word in overrides if not word.startswith(others)]
        selected = [word.removeprefix(f"{recipe}.") for word in selected]
        trees[recipe] = recipe_tree(recipe, selected, category, data, preset, compared=True)
    return trees


def _based(path: Path, above: tuple[Path, ...]) -> Tree:
    """The tree of a recipe over that of its `base`; `above`: the recipes that are based on it."""
    tree = read_recipe(path)
    if BASE not in tree:
        return tree
    chain = (*above, path)
    base = _base_path(path, tree.pop(BASE))
    for number, ancestor in enumerate(chain):
        if base.resolve() == ancestor.resolve():
            circle = " -> ".join(map(str, (*chain[number:], base)))
            raise UserError(
                f"recipe {path} must not be based on itself; got {circle}; take one `base` out."
            )
    return merge(_based(base, chain), tree)


def _base_path(path: Path, base: object) -> Path:
    """The file that the `base` of the recipe `path` means: a path from where it lies, or a name,
    looked for beside it, in the folder above and under experiments/, here and as shipped."""
    if not isinstance(base, str) or not base:
        raise UserError(
            f"recipe {path}: base must be the name or the path of a recipe; got {base!r}."
        )
    if Path(base).suffix in (".yaml", ".yml"):
        candidates, folders = [path.parent / base], [(path.parent / base).parent]
    else:
        folders = [path.parent, path.parent.parent, LOCAL, shipped()]
        candidates = [folder / f"{base}.yaml" for folder in folders]
    for candidate in candidates:
        if candidate.is_file() and candidate.resolve() != path.resolve():
            return candidate
    available = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")} - {path.stem})
    near = difflib.get_close_matches(Path(base).stem, available, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(available) or 'none'}."
    raise UserError(f"recipe {path}: base must be a recipe that exists; got {base!r}; {hint}")


def _preset(name: str, tree: Tree, compared: bool) -> Tree:
    """Return what a preset says to a recipe: its section of the recipe's detector in `detectors`
    over the rest, and for recipes that are compared the section `comparison`, of the same form,
    over both. What the recipe turned off (0 or false) stays off: a preset makes work smaller only.
    """
    path = locate(name, PRESETS)
    if path is None:
        available = ["full", *names(PRESETS)]
        raise UserError(f"preset must be one of {', '.join(available)}; got {name!r}.")
    preset = read_recipe(path)
    comparison = preset.pop("comparison", {})
    section = tree.get("detector", {})
    detector = section.get("name", "vqvae") if isinstance(section, dict) else section
    result: Tree = {}
    for part in (preset, comparison) if compared else (preset,):
        of_detectors = part.pop("detectors", {})
        result = merge(merge(result, part), of_detectors.get(detector, {}))
    return _left_on(result, tree)


def _left_on(preset: Mapping[str, Any], tree: Mapping[str, Any]) -> Tree:
    """Return the preset without settings that are 0 or false in `tree`."""
    result: Tree = {}
    for key, value in preset.items():
        below = tree.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[key] = _left_on(value, below)
        elif not isinstance(below, int | float) or below:
            result[key] = value
    return result
