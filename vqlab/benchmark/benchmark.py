"""Run a benchmark: open its queue of cells, run what is missing, write the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vqlab.benchmark.cell import BENCHMARK_TAG, FinishedRuns, run_cell
from vqlab.benchmark.plan import Cell, Plan
from vqlab.benchmark.report import PAGE, TABLES, Report, make_report, write_report
from vqlab.benchmark.results import collect
from vqlab.config import digest
from vqlab.data import dataset_fingerprint
from vqlab.recipes import Data
from vqlab.sweep import (
    ExternalWorkers,
    JobQueue,
    JobState,
    Launcher,
    LocalWorkers,
    Progressed,
    TrialProgress,
    opened_storage,
    running,
    storage_address,
    sweep_lock,
)
from vqlab.tracking import NOTE, Run, RunRecord, Tracker, category_tags
from vqlab.types import UserError

EXPERIMENT = "benchmarks"
"""MLflow experiment of benchmarks; the runs of their cells are in the experiment of the
category."""
KIND = "benchmark"
"""Value of the tag `vqlab.kind`."""
_PLAN, _FINGERPRINT = "plan.json", "vqlab.data_fingerprint"


@dataclass(frozen=True)
class Opened:
    """A benchmark was opened; nothing was trained yet."""

    key: str
    cells: tuple[Cell, ...]
    done: int
    """Number of cells that earlier calls finished."""


@dataclass(frozen=True)
class CellChanged:
    """A cell started, progressed or ended."""

    cell: Cell
    state: JobState
    done: int
    total: int


Event = Opened | CellChanged | Progressed
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of a benchmark."""

    key: str
    report: Report
    page: Path
    """Self-contained report."""
    tables: Path
    """All figures as JSON."""
    link: str
    """The benchmark's run in the UI."""


def run_benchmark(
    plan: Plan,
    tracker: Tracker,
    *,
    workers: int = 1,
    launcher: Launcher | Literal["elsewhere"] | None = None,
    results: Path = Path("results"),
    on_event: OnEvent = lambda event: None,
) -> BenchmarkResult:
    """Train and test every cell of a plan, and report on them. Called again, it resumes.

    Cells that a finished run has measured are not run again. Workers on this or other machines
    share the cells through the study store; one worker runs them in this process. launcher: starts
    the workers in another way; `elsewhere` waits for workers started by others. Raises UserError
    for invalid input, for a benchmark that another process runs, and if no cell succeeds;
    Interrupted on Ctrl-C.
    """
    cells = plan.cells
    key = plan.key(data_fingerprint(plan))
    locked = sweep_lock(tracker.root / "locks", key)
    with locked, opened_storage(storage_address(tracker.root)) as storage:
        queue = JobQueue(storage, key, len(cells))
        _forget_missing(queue, plan, tracker)
        parent = _open_run(plan, key, tracker)
        on_event(Opened(key, cells, queue.done()))
        if launcher is None and workers > 1:
            launcher = LocalWorkers(workers, tracker.root)
        elif launcher == "elsewhere":
            launcher = ExternalWorkers(queue.finished)
        with running(
            tracker, parent, f"benchmark {key}", lambda: f"{queue.done()} of {len(cells)} cells"
        ):
            if not queue.finished():
                _run_cells(plan, queue, tracker, launcher, on_event)
            measured = collect(plan, queue.states(), tracker)
            if not measured.runs:
                raise UserError(f"no cell of {key} succeeded; {measured.failures[-1][1]}")
            links = {run.run_id: tracker.link(run.run_id) for run in measured.runs.values()}
            report = make_report(
                key, measured, links,
                lambda *counts: on_event(Progressed("resampling the test images", *counts)),
            )  # fmt: skip
            folder = results / "benchmark" / key
            write_report(report, folder)
            for name in (PAGE, TABLES):
                parent.log_artifact(folder / name)
    return BenchmarkResult(key, report, folder / PAGE, folder / TABLES, parent.link)


def join(key: str, tracker: Tracker, *, data: Data = None) -> None:
    """Run cells of an existing benchmark, on any machine, until none is left.

    data: the folder of the images on this machine. Raises UserError for an unknown benchmark or
    other images, and if cells fail and none succeeds.
    """
    record = find_benchmark(key, tracker)
    if record is None:
        raise UserError(f"there is no benchmark {key!r} in {tracker.root}.")
    plan = Plan.of(json.loads(record.artifact(_PLAN).read_text(encoding="utf-8")), data)
    if data_fingerprint(plan) != record.tags[_FINGERPRINT]:
        raise UserError(
            f"the images on this machine differ from those of {key}; copy the same ones."
        )
    with opened_storage(storage_address(tracker.root)) as storage:
        queue = JobQueue(storage, key)
        _run_cells(plan, queue, tracker, None, lambda event: None)


def find_benchmark(key: str, tracker: Tracker) -> RunRecord | None:
    """Return the run of a benchmark, None if there is none."""
    runs = tracker.runs(kinds=[KIND], tags={"vqlab.study": key})
    return runs[-1] if runs else None


def data_fingerprint(plan: Plan) -> str:
    """Return a fingerprint of the images of all cells."""
    settings = plan.cells[0].config.data
    return digest(
        [
            dataset_fingerprint(settings.model_copy(update={"categories": (category,)}))
            for category in plan.categories
        ]
    )


def _forget_missing(queue: JobQueue, plan: Plan, tracker: Tracker) -> None:
    """Queue cells again whose runs were deleted."""
    finished = FinishedRuns(tracker)
    done = [state.job for state in queue.states() if state.state == "done"]
    queue.forget([job for job in done if finished.find(plan.cells[job]) is None])


def _open_run(plan: Plan, key: str, tracker: Tracker) -> Run:
    """Return the benchmark's own run, started if there is none."""
    earlier = find_benchmark(key, tracker)
    if earlier is not None:
        return tracker.amend(earlier.run_id)
    run = tracker.start(
        experiment=EXPERIMENT,
        name=f"{plan.name}: {len(plan.recipes)} recipes, {len(plan.categories)} categories",
        tags={
            "vqlab.kind": KIND,
            "vqlab.study": key,
            "vqlab.preset": plan.preset,
            "vqlab.data_fingerprint": data_fingerprint(plan),
            **category_tags(plan.categories),
            NOTE: f"Artifact `{PAGE}`: the report. The runs of its cells have the tag "
            f"`{BENCHMARK_TAG}` = `{key}`, unless they were reused.",
        },
        params={"recipes": list(plan.recipes), "seeds": list(plan.seeds), "cells": len(plan.cells)},
    )
    run.log_json(plan.tree, _PLAN)
    return run


def _run_cells(
    plan: Plan, queue: JobQueue, tracker: Tracker, launcher: Launcher | None, on_event: OnEvent
) -> None:
    """Run the remaining cells, and emit an event for each change of a cell."""
    cells = plan.cells

    def changed(state: JobState) -> None:
        on_event(CellChanged(cells[state.job], state, queue.done(), len(cells)))

    def run(job: int, progress: TrialProgress) -> str:
        def on_epoch(epoch: int, epochs: int, metrics: dict[str, float]) -> None:
            progress(epoch, epochs)
            changed(JobState(job, "running", progress=(epoch, epochs)))

        def on_progress(task: str, done: int, total: int) -> None:
            on_event(Progressed(task, done, total))

        return run_cell(cells[job], tracker, queue.name, plan.preset, on_epoch, on_progress)

    if launcher is None:
        queue.work(run, changed)
        return
    try:
        launcher.start(queue.name)
        queue.monitor(launcher, changed)
    finally:
        launcher.stop()
