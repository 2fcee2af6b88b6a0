"""Recipes by name, and how preset, options and overrides lie over one: the later wins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqlab.config import Tree, merge, nest, parse_overrides, read_recipe
from vqlab.errors import UserError

EXPERIMENTS = Path("experiments")


def recipe_path(recipe: str) -> Path:
    """The file a recipe's name or path means."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    return EXPERIMENTS / f"{recipe}.yaml"


def recipe_tree(
    recipe: str,
    overrides: Sequence[str] = (),
    category: str | None = None,
    data: Path | str | None = None,
    preset: str = "full",
) -> Tree:
    """Recipe, then preset, then options, then overrides: the later wins."""
    if "=" in recipe:
        raise UserError(
            f"the first argument must be a recipe; got the setting {recipe!r}; write e.g. "
            f"`vqlab train vqvae {recipe}`."
        )
    path = recipe_path(recipe)
    if recipe == "vqvae" and not path.exists():  # installed without a checkout: the defaults
        tree: Tree = {"detector": {"name": "vqvae"}}
    else:
        tree = read_recipe(path)
    if preset != "full":
        tree = merge(tree, _preset(preset, tree))
    if category is not None:
        tree = merge(tree, nest("data.categories", "all" if category == "all" else [category]))
    if data is not None:
        tree = merge(tree, nest("data.root", str(data)))
    return merge(tree, parse_overrides(overrides))


def _preset(name: str, tree: Tree) -> Tree:
    """A preset's tree; of its section `detectors` only what is for the recipe's detector."""
    path = EXPERIMENTS / "presets" / f"{name}.yaml"
    if not path.exists():
        there = ["full", *sorted(p.stem for p in path.parent.glob("*.yaml"))]
        raise UserError(f"preset must be one of {', '.join(there)}; got {name!r}.")
    preset = read_recipe(path)
    of_detectors = preset.pop("detectors", {})
    section = tree.get("detector", {})
    detector = section.get("name", "vqvae") if isinstance(section, dict) else section
    return merge(preset, {"detector": of_detectors[detector]} if detector in of_detectors else {})
