"""Tracking with MLflow: runs, metrics, pictures, checkpoints and the model registry.

Start with `Tracker.open()`. No global state is used: no active run, no default tracking URI.
MLflow takes seconds to import; names of modules that need it are imported at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# First: sets environment variables that mlflow reads on import.
from vqlab.tracking.environment import user_name  # isort: split

from vqlab.tracking.artifacts import CHECKPOINT
from vqlab.tracking.categories import category_tags, matches_categories
from vqlab.tracking.liveness import owner_is_gone, owner_tags
from vqlab.tracking.pages import NOTE, TESTED_CHARTS, TESTED_TABLE, ExperimentPages, picture_address
from vqlab.tracking.record import RunRecord, ranked
from vqlab.tracking.store import remember_ui
from vqlab.tracking.ui import ui_command

if TYPE_CHECKING:
    from vqlab.tracking.registry import PREVIOUS, Version
    from vqlab.tracking.run import Run
    from vqlab.tracking.termination import Terminated
    from vqlab.tracking.tracker import Tracker

__all__ = [
    "CHECKPOINT",
    "NOTE",
    "PREVIOUS",
    "TESTED_CHARTS",
    "TESTED_TABLE",
    "ExperimentPages",
    "Run",
    "RunRecord",
    "Terminated",
    "Tracker",
    "Version",
    "category_tags",
    "matches_categories",
    "owner_is_gone",
    "owner_tags",
    "picture_address",
    "ranked",
    "remember_ui",
    "ui_command",
    "user_name",
]

_MODULES = {
    "Tracker": "tracker",
    "Run": "run",
    "Terminated": "termination",
    **dict.fromkeys(("PREVIOUS", "Version"), "registry"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
