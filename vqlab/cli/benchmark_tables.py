"""Progress and result of a benchmark in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import TaskID

from vqlab.cli.fit_width import Column, FittedTable, from_columns
from vqlab.cli.progress import bars, count, out
from vqlab.cli.terminal import print_notes
from vqlab.evaluation import MEAN
from vqlab.metrics import METRICS, metric_title
from vqlab.text import visible

if TYPE_CHECKING:
    from vqlab.benchmark import BenchmarkResult, CellChanged, OnEvent, Report
    from vqlab.benchmark import Event as BenchmarkEvent


@contextmanager
def benchmarking() -> Iterator[OnEvent]:
    """Yield a callback that shows progress bars over cells, epochs of running cells and other
    tasks, and prints a line per finished cell."""
    from vqlab.benchmark import CellChanged, Opened

    progress = bars()
    cells = progress.add_task("models", total=None, metrics="")
    running: dict[int, TaskID] = {}
    counted: dict[str, TaskID] = {}

    def on_event(event: BenchmarkEvent) -> None:
        if isinstance(event, Opened):
            progress.update(cells, completed=event.done, total=len(event.cells))
            out.print(f"benchmark {event.key}: {event.done} of {len(event.cells)} models done")
        elif isinstance(event, CellChanged):
            job, state = event.state.job, event.state.state
            if state == "running":
                if job not in running:
                    title = visible(event.cell.title)
                    running[job] = progress.add_task(title, total=None, metrics="")
                done, total = event.state.progress
                progress.update(running[job], completed=done, total=total or None)
                return
            if job in running:
                progress.remove_task(running.pop(job))
            progress.update(cells, completed=event.done)
            out.print(_line(event))
        else:
            count(progress, counted, event.task, event.done, event.total)

    with progress:
        yield on_event


def _line(event: CellChanged) -> str:
    """Return the line printed for a finished cell."""
    state = event.state
    seconds = "" if state.seconds is None else f", {state.seconds:.0f} s"
    outcome = f"reused {state.reused}" if state.reused else state.state + seconds
    reason = f": {state.reason}" if state.reason else ""
    return f"{event.cell.title}: {outcome}{reason}; {event.done} of {event.total}"


def print_result(result: BenchmarkResult) -> None:
    """Print the tables of a benchmark and the path of its report."""
    report = result.report
    if report.metrics:
        out.print(_metrics_table(report))
        out.print(_costs_table(report))
    notes = [f"failed: {cell.title}: {reason}" for cell, reason in report.results.failures]
    if report.results.incomplete:
        names = "; ".join(report.results.incomplete)
        notes.append(f"not compared, as results are missing: {names}")
    print_notes(notes)
    out.print(f"report: {result.page}")
    out.print(f"all figures: {result.tables}")
    out.print(f"in MLflow (start its UI with: vqlab ui): {result.link}")


def _metrics_table(report: Report) -> FittedTable:
    """Return the mean, spread over seeds and average rank of each method."""
    assert report.resampled is not None
    methods, column = report.results.methods, report.columns[0]
    others = [each for each in report.published if column == MEAN or each.categories == (column,)]
    titles = [f"{each.method.name} (published)" for each in others]
    columns = [(Column("method", text=True, unbroken=True), [*methods, *titles])]
    for metric in report.metrics:
        cells = []
        for name in methods:
            value = report.resampled.value(name, column, metric)
            spread = report.spread(name, column, metric)
            cells.append(f"{value:.3f}" + ("" if spread is None else f" ± {spread:.3f}"))
        for each in others:
            published, _ = each.for_column(column, metric)
            cells.append("–" if published is None else f"{published:.3f}")
        level = METRICS[metric].headline
        less = "" if METRICS[metric].greater_is_better else " ↓"
        columns.append((Column(metric_title(metric) + less, rank=level - 1), cells))
    first = report.comparisons.get(report.metrics[0])
    if first is not None:
        ranks = [f"{rank:.2f}" for rank in first[column].ranks.average] + [""] * len(others)
        columns.append((Column(f"rank, {metric_title(report.metrics[0])}"), ranks))
    task = "mean over categories" if column == MEAN else column
    seeds = len(report.results.plan.seeds)
    notes = [f"± standard deviation over {seeds} seeds"] if seeds > 1 else []
    if others:
        notes.append(
            "published: figures of papers, not measured here; over all categories of the dataset "
            "where there are none for these (sources: see the report)"
        )
    styles = [""] * len(methods) + ["dim"] * len(others)
    return from_columns(task, columns, styles, "\n".join(notes))


def _costs_table(report: Report) -> FittedTable:
    costs = [report.results.costs(name) for name in report.results.methods]
    values = {
        "training CPU-s": [each.training_cpu_seconds for each in costs],
        "images per CPU-s": [each.images_per_cpu_second for each in costs],
        "peak memory, MiB": [each.peak_memory_mib for each in costs],
        "checkpoint, MiB": [each.checkpoint_mib for each in costs],
    }
    columns = [(Column("method", text=True, unbroken=True), list(report.results.methods))]
    columns += [
        (Column(title), ["–" if value is None else _short(value) for value in column])
        for title, column in values.items()
    ]
    return from_columns("costs", columns)


def _short(value: float) -> str:
    """Format a number with three digits, or more before the decimal point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
