"""The runs of a benchmark: their test metrics with evidence, and their costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from vqlab.benchmark.cell import CHECKPOINT_SIZE, CPU_PER_IMAGE, PEAK_MEMORY, FinishedRuns
from vqlab.benchmark.plan import Cell, Plan
from vqlab.evaluation import EVIDENCE, CategoryEvidence, load_evidence
from vqlab.run import TRAINING_CPU
from vqlab.sweep import JobState
from vqlab.tracking import RunRecord, Tracker

Measured = dict[str, dict[str, dict[int, CategoryEvidence]]]
"""By method, category and seed."""


@dataclass(frozen=True)
class Costs:
    """Costs of the models of a method, means over seeds; None where unknown."""

    training_cpu_seconds: float | None
    """Of the models of all categories together."""
    images_per_cpu_second: float | None
    """Mean over models."""
    peak_memory_mib: float | None
    """Of the largest model."""
    checkpoint_mib: float | None
    """Of the models of all categories together."""


@dataclass(frozen=True)
class Results:
    """Measurements of the finished cells of a benchmark."""

    plan: Plan
    states: Sequence[JobState]
    runs: Mapping[int, RunRecord]
    """Run of each finished cell, by index."""
    measured: Measured
    methods: tuple[str, ...]
    """Methods with a result in every category, which are compared."""

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Methods that lack a category."""
        return tuple(name for name in self.plan.methods if name not in self.methods)

    @property
    def failures(self) -> list[tuple[Cell, str]]:
        """Cells without a result, with the reason."""
        return [
            (self.plan.cells[state.job], state.reason)
            for state in self.states
            if state.job not in self.runs
        ]

    def metrics(self) -> list[str]:
        """Return the names of the metrics that every compared method has in every category."""
        parts = [
            set(each.metrics)
            for name in self.methods
            for seeds in self.measured[name].values()
            for each in seeds.values()
        ]
        return [name for name in _METRICS if parts and all(name in part for part in parts)]

    def values(self, method: str, category: str, metric: str) -> list[float]:
        """Return the value of each seed."""
        return [each.metrics[metric] for each in self.measured[method][category].values()]

    def seed_means(self, method: str, metric: str) -> list[float]:
        """Return the mean over categories for each seed that all of them have."""
        parts = self.measured[method]
        seeds = [s for s in self.plan.seeds if all(s in seeds for seeds in parts.values())]
        return [fmean(part[seed].metrics[metric] for part in parts.values()) for seed in seeds]

    def costs(self, method: str) -> Costs:
        """Return the costs of a method."""
        by_seed: dict[int, list[Mapping[str, float]]] = defaultdict(list)
        for index, run in self.runs.items():
            cell = self.plan.cells[index]
            if cell.method == method:
                by_seed[cell.seed].append(run.metrics)
        every = [metrics for parts in by_seed.values() for metrics in parts]
        cpu = [metrics[CPU_PER_IMAGE] for metrics in every if metrics.get(CPU_PER_IMAGE)]
        memory = [metrics[PEAK_MEMORY] for metrics in every if PEAK_MEMORY in metrics]
        return Costs(
            _mean_of_sums(by_seed.values(), TRAINING_CPU),
            1 / fmean(cpu) if cpu else None,
            max(memory, default=None),
            _mean_of_sums(by_seed.values(), CHECKPOINT_SIZE),
        )


_METRICS = (
    "image_auroc", "pixel_auroc", "aupro", "image_ap", "pixel_ap", "escape_rate",
    "false_reject_rate",
)  # fmt: skip
"""Metrics with a table, the most important first."""


def _mean_of_sums(seeds: Iterable[Sequence[Mapping[str, float]]], name: str) -> float | None:
    """Return the mean over seeds of the sum over models; None without a seed that has all."""
    complete = [[part[name] for part in parts] for parts in seeds if all(name in p for p in parts)]
    return fmean(map(sum, complete)) if complete else None


def collect(plan: Plan, states: Sequence[JobState], tracker: Tracker) -> Results:
    """Return the results of all finished cells.

    Methods of which a category has no result are not compared.
    """
    finished = FinishedRuns(tracker)
    runs = {}
    measured: Measured = defaultdict(lambda: defaultdict(dict))
    for index, cell in enumerate(plan.cells):
        record = finished.find(cell)
        if record is None:
            continue
        runs[index] = record
        for category, evidence in load_evidence(record.artifact(EVIDENCE)).items():
            measured[cell.method][category][cell.seed] = evidence
    complete = tuple(
        name for name in plan.methods if all(measured[name].get(c) for c in plan.categories)
    )
    return Results(plan, states, runs, {n: dict(c) for n, c in measured.items()}, complete)


def same_images(results: Results, category: str) -> bool:
    """Return whether all compared runs measured the same test images of a category in one order."""
    labels = [
        each.evidence.labels
        for name in results.methods
        for each in results.measured[name][category].values()
    ]
    return all(np.array_equal(labels[0], other) for other in labels)
