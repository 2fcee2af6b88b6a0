"""Tracking: every run with its metrics, pictures and checkpoint goes to MLflow, from here alone.

`Tracker.open()` is the door. Nothing global is changed: no active run, no default address.
"""

# This one first: it sets what mlflow reads from the environment while it is imported.
from vqlab.tracking.environment import (  # isort: split
    MLFLOW_DEFAULTS,
    surroundings,
)

from vqlab.tracking.categories import category_tags, meant_by
from vqlab.tracking.liveness import owner_is_gone, owner_tags
from vqlab.tracking.pages import NOTE, ExperimentPages, picture_address
from vqlab.tracking.record import RunRecord
from vqlab.tracking.registry import CHAMPION, PREVIOUS, Champion, Registry, Version, model_name
from vqlab.tracking.run import CHECKPOINT, CONFIG, Run, Terminated
from vqlab.tracking.store import remember_ui
from vqlab.tracking.tracker import Tracker
from vqlab.tracking.ui import ui_command

__all__ = [
    "CHAMPION",
    "CHECKPOINT",
    "CONFIG",
    "MLFLOW_DEFAULTS",
    "NOTE",
    "PREVIOUS",
    "Champion",
    "ExperimentPages",
    "Registry",
    "Run",
    "RunRecord",
    "Terminated",
    "Tracker",
    "Version",
    "category_tags",
    "meant_by",
    "model_name",
    "owner_is_gone",
    "owner_tags",
    "picture_address",
    "remember_ui",
    "surroundings",
    "ui_command",
]
