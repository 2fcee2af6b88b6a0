"""List the sweeps of a study store, and delete them with their runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import optuna
from optuna.storages import BaseStorage

from vqlab.sweep.study.storage import sweep_lock
from vqlab.sweep.study.studies import load_studies, sweep_of
from vqlab.tracking import RunRecord, Tracker
from vqlab.tracking.deletion import delete_runs


@dataclass(frozen=True)
class StoredSweep:
    """A sweep in the store."""

    name: str
    studies: tuple[str, ...]
    """Names of its Optuna studies, one per recipe."""
    trials: int
    start: datetime | None
    """Start of the first trial (local time), None without one."""


def list_sweeps(storage: BaseStorage) -> list[StoredSweep]:
    """Return the sweeps of a store, newest first."""
    groups: dict[str, list[optuna.study.StudySummary]] = {}
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        groups.setdefault(sweep_of(summary.study_name, summary.user_attrs), []).append(summary)
    sweeps = [
        StoredSweep(
            name,
            tuple(each.study_name for each in group),
            sum(each.n_trials for each in group),
            min((each.datetime_start for each in group if each.datetime_start), default=None),
        )
        for name, group in groups.items()
    ]
    return sorted(sweeps, key=lambda sweep: sweep.start or datetime.min, reverse=True)


def runs_of(tracker: Tracker, sweep: str) -> list[RunRecord]:
    """Return the runs of a sweep: its own and those of its trials."""
    return tracker.runs(tags={"vqlab.study": sweep})


def delete_sweep(tracker: Tracker, storage: BaseStorage, name: str) -> None:
    """Delete the runs of a sweep with their artifacts, then its Optuna studies.

    If the process is killed in between, the sweep is still listed, and deleting it again deletes
    the rest. Raises UserError, before anything is deleted, if there is no such sweep, it is
    running on this machine, or one of its runs has a registered version or is being written.
    """
    studies = load_studies(storage, name)
    with sweep_lock(tracker.root / "locks", studies.name):
        delete_runs(tracker, runs_of(tracker, studies.name))
        for study in studies.by_recipe.values():
            optuna.delete_study(study_name=study.study_name, storage=storage)
