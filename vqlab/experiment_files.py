"""Files of `experiments/` by name: recipes, sweep spaces, studies and presets.

The local folder `experiments/` takes precedence over the bundled one, which is inside the installed
package or next to it in a checkout.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from vqlab.errors import UserError

LOCAL = Path("experiments")
RECIPES, SWEEPS, STUDIES, PRESETS = "", "sweeps", "studies", "presets"
"""Folders below `experiments/`, one per kind; recipes lie beside and below them."""
_WHAT = {RECIPES: "recipe", SWEEPS: "sweep space", STUDIES: "study", PRESETS: "preset"}
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
    """Return the file of that name as `locate` does. Raises UserError where there is none."""
    file = locate(name, kind)
    if file is None:
        raise UserError(f"{_WHAT[kind]} {name} does not exist; {hint(name, names(kind))}")
    return file


def names(kind: str = RECIPES) -> list[str]:
    """Return the names of all files of that kind, local and shipped."""
    others = {SWEEPS, STUDIES, PRESETS}
    paths = {
        file.relative_to(folder / kind).with_suffix("")
        for folder in (LOCAL, shipped())
        for file in (folder / kind).rglob("*.yaml")
    }
    chosen = (path for path in paths if kind or path.parts[0] not in others)
    return [path.as_posix() for path in sorted(chosen, key=lambda path: (len(path.parts), path))]


def hint(name: str, available: Iterable[str]) -> str:
    """Return what to write instead of an unknown name: the closest one, and all that exist."""
    available = list(available)
    near = difflib.get_close_matches(name, available, n=1, cutoff=0.6)
    question = f"did you mean {near[0]}? " if near else ""
    listed = ", ".join(available) or "none"
    return f"{question}{'There' if near else 'there'} are: {listed}; or give a YAML file."
