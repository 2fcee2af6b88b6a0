"""Files of `experiments/` by name: recipes, search spaces, studies and presets.

The local folder `experiments/` takes precedence over the bundled one, which is inside the installed
package or next to it in a checkout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqlab.errors import UserError, did_you_mean

LOCAL = Path("experiments")
RECIPES, SWEEPS, STUDIES, PRESETS = "", "sweeps", "studies", "presets"
BENCHMARKS, PUBLISHED = "benchmarks", "published"
"""Folders in `experiments/`, one per kind; recipes are in `experiments/` and its other folders."""
_TITLES = {
    RECIPES: "recipe", SWEEPS: "sweep space", STUDIES: "study", PRESETS: "preset",
    BENCHMARKS: "benchmark", PUBLISHED: "table of published figures",
}  # fmt: skip
_PACKAGE = Path(__file__).resolve().parent


def shipped() -> Path:
    """Return the bundled `experiments/` folder."""
    inside = _PACKAGE / "experiments"
    return inside if inside.is_dir() else _PACKAGE.parent / "experiments"


def locate(name: str, kind: str = RECIPES) -> Path | None:
    """Return the local or bundled file of that name, or None."""
    files = (folder / kind / f"{name}.yaml" for folder in (LOCAL, shipped()))
    return next((file for file in files if file.is_file()), None)


def find(name: str, kind: str = RECIPES) -> Path:
    """Return the local or bundled file of that name; a path of a YAML file is returned unchanged.
    Raises UserError if there is no such name."""
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    file = locate(name, kind)
    if file is None:
        raise UserError(f"{_TITLES[kind]} {name} does not exist; {hint(name, names(kind))}")
    return file


def names(kind: str = RECIPES) -> list[str]:
    """Return the names of all files of that kind, local and bundled."""
    paths = {
        file.relative_to(folder / kind).with_suffix("")
        for folder in (LOCAL, shipped())
        for file in (folder / kind).rglob("*.yaml")
    }
    if kind == RECIPES:
        paths = {path for path in paths if path.parts[0] not in _TITLES}
    return [path.as_posix() for path in sorted(paths, key=lambda path: (len(path.parts), path))]


def hint(name: str, available: Sequence[str]) -> str:
    """Return a hint for an unknown name: the closest available one, and all of them."""
    question = did_you_mean(name, available)
    names = ", ".join(available) or "none"
    return f"{question + ' Available' if question else 'available'}: {names}; or use a YAML file."
