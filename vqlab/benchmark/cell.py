"""Run one cell of a benchmark as an ordinary run, or reuse a finished run."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vqlab.benchmark.plan import Cell
from vqlab.benchmark.reuse import start_trained
from vqlab.config import dump, flatten
from vqlab.data import Splits, dataset_fingerprint, load_dataset
from vqlab.evaluation import EVIDENCE
from vqlab.promote.reproduce import score_in_fresh_process
from vqlab.run import (
    REUSED_TAG,
    TRAINED_TAG,
    OnEpoch,
    OnProgress,
    Recording,
    RunConfig,
    require_test,
    resolve,
    run,
    trained_key,
)
from vqlab.tracking import Run, RunRecord, Tracker
from vqlab.training import choose_device
from vqlab.types import UserError
from vqlab.version import __version__

CPU_PER_IMAGE = "cost/cpu_seconds_per_image"
PEAK_MEMORY = "cost/peak_memory_mib"
CHECKPOINT_SIZE = "cost/checkpoint_mib"
"""Metrics of a run: CPU-seconds per image (all threads, from file to score) and peak resident
memory of a fresh process that scores images with the checkpoint; size of the checkpoint."""
CELL_TAG, BENCHMARK_TAG = "vqlab.benchmark_cell", "vqlab.benchmark"
"""Tags of a run: its `cell_key`, and the benchmark that trained it."""
_MEASURED = ("detector.scoring.", "threshold.", "evaluation.")
"""Settings after training that determine the test metrics."""
_MIB = 2**20
_N_TIMED = 8
"""Images that the fresh process scores."""


def cell_key(cell: Cell) -> str:
    """Return a digest of the settings that determine training, and of the images."""
    return trained_key(cell.config, dataset_fingerprint(cell.config.data))


class FinishedRuns:
    """Finished runs that a benchmark can reuse; the store is read once."""

    def __init__(self, tracker: Tracker) -> None:
        self._by_key: dict[str, list[RunRecord]] = {}
        for record in tracker.runs(kinds=["train"]):
            if record.status == "FINISHED" and record.tags.get("vqlab.version") == __version__:
                self._by_key.setdefault(record.tags.get(TRAINED_TAG, ""), []).append(record)

    def find(self, cell: Cell) -> RunRecord | None:
        """Return the newest run with the settings of the cell that was measured on test."""
        measured = _measured(cell.config)
        for record in self._by_key.get(cell_key(cell), []):
            with suppress(UserError):  # an artifact is missing
                if _measured(resolve(record.config())) == measured and record.artifact(EVIDENCE):
                    return record
        return None


def _measured(config: RunConfig) -> dict[str, Any]:
    values = flatten(dump(config))
    return {key: value for key, value in values.items() if key.startswith(_MEASURED)}


def run_cell(
    cell: Cell,
    tracker: Tracker,
    key: str,
    preset: str,
    on_epoch: OnEpoch,
    on_progress: OnProgress,
) -> str:
    """Train and test the model of a cell, unless a finished run can be reused; return the reused
    run, or an empty string.

    An interrupted run of the same cell is resumed. key: the benchmark's.
    """
    finished = FinishedRuns(tracker).find(cell)
    if finished is not None:
        if CPU_PER_IMAGE not in finished.metrics:  # run by `vqlab train`, or killed before
            splits = load_dataset(cell.config.data)
            _log_costs(tracker, finished.run_id, finished.checkpoint(), cell, splits)
        return f"run {finished.run_id}"
    splits = load_dataset(cell.config.data)
    require_test(splits, "for a benchmark")
    tags = {
        "vqlab.preset": preset,
        "vqlab.recipe": cell.recipe,
        BENCHMARK_TAG: key,
        CELL_TAG: cell_key(cell),
    }
    resumed, reused = _interrupted(cell, tracker), dict[str, str]()
    if resumed is None and (started := start_trained(cell, splits, tracker, tags)):
        resumed, reused = started
    with tempfile.TemporaryDirectory() as results:  # pictures are artifacts too
        outcome = run(
            cell.config,
            tracker,
            Recording(cell.title, tags, resumed, Path(results)),
            splits=splits,
            on_epoch=on_epoch,
            on_progress=on_progress,
        )
    _log_costs(tracker, outcome.run_id, outcome.checkpoint, cell, splits)
    if not reused:
        return ""
    tracker.amend(outcome.run_id).set_tags(reused)  # not only the features
    return f"training of {reused[REUSED_TAG]}"


def _log_costs(tracker: Tracker, run_id: str, checkpoint: Path, cell: Cell, splits: Splits) -> None:
    """Measure the costs of a checkpoint in a fresh process, unaffected by earlier cells."""
    measured = score_in_fresh_process(
        {
            "checkpoint": str(checkpoint),
            "images": [
                (str(record.path), record.category) for record in splits.train.records[:_N_TIMED]
            ],
            "device": str(choose_device(cell.config.training)),
            "threads": str(torch.get_num_threads()),
        }
    )
    tracker.amend(run_id).log_metrics(
        {
            CPU_PER_IMAGE: measured["cpu_seconds"],
            PEAK_MEMORY: measured["memory"] / _MIB,
            CHECKPOINT_SIZE: checkpoint.stat().st_size / _MIB,
        }
    )


def _interrupted(cell: Cell, tracker: Tracker) -> Run | None:
    """Return the interrupted run of this cell, reopened; None if there is none."""
    tracker.reconcile()
    measured = _measured(cell.config)
    for record in tracker.runs(kinds=["train"], tags={CELL_TAG: cell_key(cell)}):
        killed = record.status == "KILLED" or record.tags.get("vqlab.failure") == "interrupted"
        if killed and record.status != "FINISHED":
            with suppress(UserError):  # another process resumed it
                if _measured(resolve(record.config())) == measured:
                    return tracker.resume(record.run_id)
    return None
