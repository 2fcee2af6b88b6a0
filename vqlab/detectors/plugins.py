"""Third-party detectors: files named by VQLAB_DETECTORS, and installed packages.

A package names its modules as entry points of the group `vqlab.detectors`. Importing a module
registers its detectors.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path

from vqlab.types import UserError

GROUP = "vqlab.detectors"
VARIABLE = "VQLAB_DETECTORS"
"""Environment variable: Python files or modules, separated as in PATH; inherited by workers."""
_loaded: set[str] = set()


def load_plugins() -> None:
    """Import the modules not imported yet. Raises UserError that names a module that fails."""
    modules = [(entry.value.partition(":")[0], "") for entry in entry_points(group=GROUP)]
    paths = os.environ.get(VARIABLE, "").split(os.pathsep)
    modules += [(path.strip(), f"{VARIABLE}: ") for path in paths if path.strip()]
    for name, source in modules:
        if name in _loaded:
            continue
        try:
            _import(name)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{source}{name} must be importable; got {type(error).__name__}: {error}"
                f"{_place(name, error)}; fix it or remove it."
            ) from error
        _loaded.add(name)


def _place(name: str, error: Exception) -> str:
    """Return the line of a file at which its import failed; empty for a module."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(name).absolute()]
    return f" at line {lines[-1]}" if lines else ""


def _import(name: str) -> None:
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    path = Path(name).absolute()
    if not path.is_file():
        raise UserError(
            f"{VARIABLE} must name Python files or modules; got {name}, which does not exist; "
            "correct the path, or unset the variable."
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for modules in the same folder
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    if path.stem in sys.modules:
        raise UserError(
            f"{VARIABLE}: {name} must not have the name of an imported module ({path.stem}); "
            "rename the file."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # for dataclasses and pickle
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
