"""Resolve recipes: base, recipe, preset, options and overrides; later ones take precedence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqlab.config import Tree, merge, nest, parse_overrides, read_recipe
from vqlab.errors import UserError, did_you_mean
from vqlab.experiment_files import LOCAL, PRESETS, find, hint, locate, names, shipped

ALL = "all"
"""Instead of a recipe: compare several recipes (sweeps only)."""
BASE = "base"
"""Key of a recipe that names the recipe that it extends."""


class Folders(NamedTuple):
    """Location of the images: a dataset, or a folder of normal and optionally one of anomalous
    images."""

    root: Path | str | None = None
    good: Path | str | None = None
    bad: Path | str | None = None

    def over(self, tree: Mapping[str, Any]) -> Tree:
        """Return `tree` with these images instead of its own; unchanged if there are none.

        Raises UserError for a dataset together with a folder, and for anomalous images alone.
        """
        if self.root is not None and (self.good is not None or self.bad is not None):
            raise UserError(
                "--data (a dataset) and --good, --bad (folders of images) are mutually exclusive; "
                "got both; omit one."
            )
        if self.bad is not None and self.good is None:
            raise UserError(
                f"--bad {self.bad} must be used with a folder of normal images; add --good FOLDER."
            )
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
        """Name of the folder of normal images: the default name of their category."""
        return None if self.good is None else Path(self.good).expanduser().absolute().name


Data = Path | str | Folders | None
"""Folder of a dataset, or `Folders`."""


def as_folders(data: Data) -> Folders:
    """Return `Folders`; a path is the folder of a dataset."""
    return data if isinstance(data, Folders) else Folders(data)


def recipe_path(recipe: str) -> Path:
    """Return the file of a recipe: the file at this path, else the local or bundled file of this
    name in `experiments/`. Raises UserError if there is none."""
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
            "the recipe must be one recipe; got all, which only a sweep compares; choose one, e.g. "
            "vqvae, or use `vqlab sweep all`."
        )
    tree = _with_base(recipe_path(recipe))
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
    """Return the trees of several recipes by name; `vqflow.training.epochs=3` overrides only the
    recipe of that name, `training.epochs=3` all of them."""
    names = list(recipes)
    trees = {}
    for recipe in names:
        selected = overrides_of(recipe, names, overrides)
        trees[recipe] = recipe_tree(recipe, selected, category, data, preset, compared=True)
    return trees


def overrides_of(recipe: str, names: Iterable[str], overrides: Sequence[str]) -> list[str]:
    """Return the overrides of one of several recipes: those with its name as prefix, without it,
    and those without the name of another one."""
    prefixes = tuple(f"{name}." for name in names if name != recipe)
    selected = [text for text in overrides if not text.startswith(prefixes)]
    return [text.removeprefix(f"{recipe}.") for text in selected]


def _with_base(path: Path, derived: tuple[Path, ...] = ()) -> Tree:
    """Return the tree of a recipe merged into that of its `base`. derived: recipes based on it."""
    tree = read_recipe(path)
    if BASE not in tree:
        return tree
    chain = (*derived, path)
    base = _base_path(path, tree.pop(BASE))
    for index, recipe in enumerate(chain):
        if base.resolve() == recipe.resolve():
            cycle = " -> ".join(map(str, (*chain[index:], base)))
            raise UserError(
                f"recipe {path} must not be based on itself; got {cycle}; remove one `base`."
            )
    return merge(_with_base(base, chain), tree)


def _base_path(path: Path, base: object) -> Path:
    """Return the file of the `base` of the recipe `path`: a path relative to the recipe, or a name
    in the recipe's folder, its parent folder, or the local or bundled `experiments/`."""
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
    hint = did_you_mean(Path(base).stem, available)
    hint = hint or f"available: {', '.join(available) or 'none'}."
    raise UserError(f"recipe {path}: base must be a recipe that exists; got {base!r}; {hint}")


def _preset(name: str, tree: Tree, compared: bool) -> Tree:
    """Return the settings of a preset for a recipe: the general ones, updated with those of the
    recipe's detector in section `detectors`; if compared, also with the section `comparison`, of
    the same form. Settings that the recipe turns off (0 or false) stay off.
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
        detectors = part.pop("detectors", {})
        result = merge(merge(result, part), detectors.get(detector, {}))
    return _without_disabled(result, tree)


def _without_disabled(preset: Mapping[str, Any], tree: Mapping[str, Any]) -> Tree:
    """Return the preset without settings that are 0 or false in `tree`."""
    result: Tree = {}
    for key, value in preset.items():
        setting = tree.get(key)
        if isinstance(value, Mapping) and isinstance(setting, Mapping):
            result[key] = _without_disabled(value, setting)
        elif not isinstance(setting, int | float) or setting:
            result[key] = value
    return result
