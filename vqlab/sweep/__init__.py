"""Sweeps: Optuna searches settings on validation, MLflow shows its trials. Optuna is the truth.

`read_space` and `sweep` are the door; the words it says meanwhile are in `vqlab.sweep.events`.
"""

from vqlab.sweep.comparison import Contest, Spaces, make_contest, make_spaces, read_space
from vqlab.sweep.events import (
    EpochDone,
    Event,
    OnEvent,
    Progressed,
    StudyOpened,
    SweepResult,
    TrialFinished,
    TrialOnTest,
    TrialRow,
    TrialStarted,
    WorkerEnded,
)
from vqlab.sweep.space.schema import Axis, Space, make_space
from vqlab.sweep.sweep import Interrupted, sweep
from vqlab.sweep.workers.base import Launcher
from vqlab.sweep.workers.local import LocalWorkers
from vqlab.sweep.workers.loop import join
from vqlab.sweep.workers.ray import RayWorkers

__all__ = [
    "Axis",
    "Contest",
    "EpochDone",
    "Event",
    "Interrupted",
    "Launcher",
    "LocalWorkers",
    "OnEvent",
    "RayWorkers",
    "Progressed",
    "Space",
    "Spaces",
    "StudyOpened",
    "SweepResult",
    "TrialFinished",
    "TrialOnTest",
    "TrialRow",
    "TrialStarted",
    "WorkerEnded",
    "join",
    "make_contest",
    "make_space",
    "make_spaces",
    "read_space",
    "sweep",
]
