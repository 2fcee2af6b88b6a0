"""The report of a benchmark: the content of its page and its JSON file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

from vqlab.benchmark.published import Published, matching_published
from vqlab.benchmark.resampling import Resampled
from vqlab.benchmark.results import Results, same_images
from vqlab.benchmark.statistics import Ranks, holm, rank_methods, wilcoxon
from vqlab.evaluation import MEAN
from vqlab.metrics import METRICS, Difference
from vqlab.types import UserError

PAGE, TABLES = "report.html", "results.json"
_LEAST, _MOST, _PER_PAIR = 1000, 5000, 200
"""Bootstrap resamples: with 200 per pair, the smallest p-value is still 0.01 after Holm's
correction."""


@dataclass(frozen=True)
class Pair:
    """Two methods compared in one metric."""

    first: str
    second: str
    difference: Difference | None
    """Second minus first, by the paired bootstrap over test images; None if undefined."""
    bootstrap_p: float | None
    """Its p-value, adjusted for the number of pairs (Holm)."""
    wilcoxon_p: float | None
    """Signed-rank test over the blocks, adjusted likewise; None for a single block."""


@dataclass(frozen=True)
class Comparison:
    """All methods compared in one metric, in one category or in the mean over categories."""

    ranks: Ranks
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Report:
    """The results of a benchmark with their statistics."""

    key: str
    results: Results
    metrics: tuple[str, ...]
    resampled: Resampled | None
    """None if no method has results in all categories."""
    comparisons: Mapping[str, Mapping[str, Comparison]]
    """By metric, and by category or `MEAN` (blocks: categories); empty for a single method."""
    published: tuple[Published, ...]
    links: Mapping[str, str]
    """Addresses of runs in the MLflow UI, by run ID."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a metric's table: the mean if there are several categories, then each."""
        categories = self.results.plan.categories
        return (MEAN, *categories) if len(categories) > 1 else categories

    def spread(self, method: str, column: str, metric: str) -> float | None:
        """Return the standard deviation over seeds; None for a single seed."""
        if column == MEAN:
            values = self.results.seed_means(method, metric)
        else:
            values = self.results.values(method, column, metric)
        return stdev(values) if len(values) > 1 else None


def make_report(
    key: str,
    results: Results,
    links: Mapping[str, str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Compute the statistics of a benchmark's results.

    on_progress: called while test images are resampled, which takes up to a second per model.
    Raises UserError if runs of one category measured different test images.
    """
    categories = results.plan.categories
    if not results.methods:
        return Report(key, results, (), None, {}, (), links)
    for category in categories:
        if not same_images(results, category):
            raise UserError(
                f"runs of {category} measured different test images; all recipes of a benchmark "
                "must have the same settings data.validation."
            )
    metrics = tuple(results.metrics())
    pairs = len(results.methods) * (len(results.methods) - 1) // 2
    resamples = min(_MOST, max(_LEAST, _PER_PAIR * pairs))
    resampled = Resampled(
        results.measured, results.methods, categories, metrics, resamples, on_progress
    )
    report = Report(key, results, metrics, resampled, {}, (), links)
    comparisons = {
        metric: {column: _compare(report, column, metric) for column in report.columns}
        for metric in (metrics if pairs else ())
    }
    published = tuple(matching_published(results))
    return Report(key, results, metrics, resampled, comparisons, published, links)


def _compare(report: Report, column: str, metric: str) -> Comparison:
    results, resampled = report.results, report.resampled
    assert resampled is not None
    methods = results.methods
    blocks = [[row[i] for row in _rows(report, column, metric)] for i in range(len(methods))]
    ranks = rank_methods(
        methods, list(zip(*blocks, strict=True)), METRICS[metric].greater_is_better
    )
    pairs = list(itertools.combinations(range(len(methods)), 2))
    names = [(methods[a], methods[b]) for a, b in pairs]
    differences = {pair: resampled.difference(pair, column, metric) for pair in names}
    p_values = {pair: d.p for pair, d in differences.items() if d is not None and d.p is not None}
    by_images = holm(p_values)
    by_blocks: dict[tuple[str, str], float] = {}
    if ranks.blocks > 1:
        by_blocks = holm(
            {n: wilcoxon(blocks[a], blocks[b]) for n, (a, b) in zip(names, pairs, strict=True)}
        )
    return Comparison(
        ranks,
        tuple(
            Pair(*pair, differences[pair], by_images.get(pair), by_blocks.get(pair))
            for pair in names
        ),
    )


def _rows(report: Report, column: str, metric: str) -> list[list[float]]:
    """Return the value of every method in each block: a category, or a seed of one category."""
    results, resampled = report.results, report.resampled
    assert resampled is not None
    if column == MEAN:
        return [
            [resampled.value(name, category, metric) for name in results.methods]
            for category in results.plan.categories
        ]
    by_method = [results.measured[name][column] for name in results.methods]
    seeds = [seed for seed in results.plan.seeds if all(seed in part for part in by_method)]
    if not seeds:  # no seed in common
        return [[resampled.value(name, column, metric) for name in results.methods]]
    return [[part[seed].metrics[metric] for part in by_method] for seed in seeds]


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    results, plan = report.results, report.results.plan
    return {
        "benchmark": report.key,
        "preset": plan.preset,
        "data": plan.source,
        "missing_categories": list(plan.missing),
        "cells": [_cell(report, index) for index in range(len(plan.cells))],
        "metrics": {
            metric: {
                name: {column: _value(report, name, column, metric) for column in report.columns}
                for name in results.methods
            }
            for metric in report.metrics
        },
        "comparisons": {
            metric: {column: _comparison(each) for column, each in columns.items()}
            for metric, columns in report.comparisons.items()
        },
        "costs": {name: asdict(results.costs(name)) for name in results.methods},
        "published": [
            {"dataset": each.dataset, **each.method.model_dump()} for each in report.published
        ],
    }


def _cell(report: Report, index: int) -> dict[str, Any]:
    cell, state = report.results.plan.cells[index], report.results.states[index]
    run = report.results.runs.get(index)
    metrics = {} if run is None else run.metrics
    return {
        "recipe": cell.recipe,
        "categories": list(cell.categories),
        "seed": cell.seed,
        "state": "failed" if run is None and state.state == "done" else state.state,
        "reason": state.reason,
        "reused": state.reused,
        "run_id": None if run is None else run.run_id,
        "commit": "" if run is None else run.tags.get("mlflow.source.git.commit", ""),
        "metrics": {k: v for k, v in sorted(metrics.items()) if k.startswith(("test/", "cost/"))},
    }


def _value(report: Report, method: str, column: str, metric: str) -> dict[str, Any]:
    assert report.resampled is not None
    interval = report.resampled.interval(method, column, metric)
    return {
        "mean": report.resampled.value(method, column, metric),
        "standard_deviation": report.spread(method, column, metric),
        "interval": None if interval is None else list(interval),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    ranks = comparison.ranks
    return {
        "average_ranks": dict(zip(ranks.methods, ranks.average, strict=True)),
        "blocks": ranks.blocks,
        "friedman": {"statistic": ranks.statistic, "p": ranks.p},
        "critical_difference": ranks.critical_difference,
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "difference": None if pair.difference is None else pair.difference.value,
                "interval": None
                if pair.difference is None or pair.difference.interval is None
                else list(pair.difference.interval),
                "bootstrap_p_holm": pair.bootstrap_p,
                "wilcoxon_p_holm": pair.wilcoxon_p,
            }
            for pair in comparison.pairs
        ],
    }


def write_report(report: Report, folder: Path) -> None:
    """Write the page and the JSON file into `folder`."""
    from vqlab.benchmark.page import report_page  # draws figures

    folder.mkdir(parents=True, exist_ok=True)
    (folder / TABLES).write_text(json.dumps(as_json(report), indent=1), encoding="utf-8")
    (folder / PAGE).write_text(report_page(report), encoding="utf-8")
