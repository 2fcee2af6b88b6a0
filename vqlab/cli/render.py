"""How the command line shows things: progress of a training, tables of metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from vqlab.evaluation import Report
    from vqlab.run import OnEpoch

out = Console(soft_wrap=True, highlight=False)

HEADLINES = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1max",
    "aupro": "AUPRO",
    "false_reject_rate": "false rejects",
    "escape_rate": "escapes",
}
WATCHED = {
    "train/loss": "loss",
    "codebook/perplexity": "perplexity",
    "codebook/dead_codes": "dead codes",
    "validation/pixel_auroc": "validation pixel AUROC",
}


@contextmanager
def epochs(title: str) -> Iterator[OnEpoch]:
    """A progress bar over epochs; a line per epoch where the output is not a terminal."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[metrics]}"),
        console=out,
        disable=not out.is_terminal,
    )
    task = progress.add_task(title, total=None, metrics="")

    def on_epoch(epoch: int, total: int, metrics: dict[str, float]) -> None:
        text = watched(metrics)
        progress.update(task, completed=epoch, total=total, metrics=text)
        if not out.is_terminal:
            out.print(f"{title}: epoch {epoch} of {total}, {text}")

    with progress:
        yield on_epoch


def watched(metrics: dict[str, float]) -> str:
    """The few figures worth watching while training, on one line."""
    return ", ".join(
        f"{word} {metrics[key]:.4g}" for key, word in WATCHED.items() if key in metrics
    )


def report_table(title: str, rows: Sequence[tuple[str, Report]]) -> Table:
    """Metrics of several reports, one row per category (and their mean where several)."""
    shown = [key for key in HEADLINES if any(key in report.mean for _, report in rows)]
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for key in shown:
        table.add_column(HEADLINES[key], justify="right")
    for name, report in rows:
        for category, metrics in report.per_category.items():
            table.add_row(f"{name} {category}", *_cells(metrics, shown))
        if len(report.per_category) > 1:
            table.add_row(f"{name} mean", *_cells(report.mean, shown), style="bold")
    return table


def _cells(metrics: dict[str, float], keys: Sequence[str]) -> list[str]:
    return [f"{metrics[key]:.3f}" if key in metrics else "–" for key in keys]
