"""Sweeps: Optuna searches settings on validation, MLflow mirrors the trials.

Start with `read_space`, `make_comparison` and `sweep`. The events that `sweep` emits are in
`vqlab.sweep.events`.
"""

from vqlab.sweep.comparison import Comparison, Spaces, make_comparison, make_spaces, read_space
from vqlab.sweep.events import (
    EpochDone,
    Event,
    OnEvent,
    Progressed,
    StudyOpened,
    SweepResult,
    TrialFinished,
    TrialKey,
    TrialOnTest,
    TrialRow,
    TrialStarted,
    WorkerEnded,
)
from vqlab.sweep.jobs import JobQueue, JobState
from vqlab.sweep.space.schema import Space, make_space
from vqlab.sweep.study.execution import TrialProgress
from vqlab.sweep.study.storage import opened_storage, storage_address, sweep_lock
from vqlab.sweep.sweep import Execution, Interrupted, running, sweep
from vqlab.sweep.workers.base import ExternalWorkers, Launcher
from vqlab.sweep.workers.local import LocalWorkers
from vqlab.sweep.workers.loop import join
from vqlab.sweep.workers.ray import RayWorkers

__all__ = [
    "Comparison",
    "EpochDone",
    "Event",
    "Execution",
    "ExternalWorkers",
    "Interrupted",
    "TrialProgress",
    "JobQueue",
    "JobState",
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
    "TrialKey",
    "TrialOnTest",
    "TrialRow",
    "TrialStarted",
    "WorkerEnded",
    "join",
    "make_comparison",
    "make_space",
    "make_spaces",
    "opened_storage",
    "read_space",
    "running",
    "storage_address",
    "sweep",
    "sweep_lock",
]
