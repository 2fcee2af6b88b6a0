"""Tracking with MLflow: runs, metrics, pictures, checkpoints and the model registry.

Start with `Tracker.open()`. No global state is used: no active run, no default tracking URI.
"""

# First: sets environment variables that mlflow reads on import.
from vqlab.tracking.environment import (  # isort: split
    MLFLOW_DEFAULTS,
    environment_info,
    user_name,
)

from vqlab.tracking.categories import category_tags, matches_categories
from vqlab.tracking.liveness import owner_is_gone, owner_tags
from vqlab.tracking.pages import (
    NOTE,
    TESTED_CHARTS,
    TESTED_TABLE,
    ExperimentPages,
    picture_address,
)
from vqlab.tracking.record import RunRecord
from vqlab.tracking.registry import CHAMPION, PREVIOUS, Champion, Registry, Version, model_name
from vqlab.tracking.run import CHECKPOINT, CONFIG, Run, Terminated
from vqlab.tracking.store import remember_ui
from vqlab.tracking.tracker import Tracker, ranked
from vqlab.tracking.ui import ui_command

__all__ = [
    "CHAMPION",
    "CHECKPOINT",
    "CONFIG",
    "MLFLOW_DEFAULTS",
    "NOTE",
    "PREVIOUS",
    "TESTED_CHARTS",
    "TESTED_TABLE",
    "Champion",
    "ExperimentPages",
    "Registry",
    "Run",
    "RunRecord",
    "Terminated",
    "Tracker",
    "Version",
    "category_tags",
    "matches_categories",
    "model_name",
    "owner_is_gone",
    "owner_tags",
    "picture_address",
    "ranked",
    "remember_ui",
    "environment_info",
    "ui_command",
    "user_name",
]
