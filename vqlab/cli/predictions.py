"""What `predict` prints: a table, a summary where there are many images, and the exit status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from vqlab.cli.fit_width import Cell, Column, FittedTable, Row, Widest
from vqlab.cli.metric_tables import thresholds_text
from vqlab.cli.terminal import out
from vqlab.text import visible

if TYPE_CHECKING:
    from vqlab.model import Model
    from vqlab.predict import PredictedFile, Predictions

UNREADABLE_STATUS = 3
"""Exit status where a file could not be read and the others are scored."""


def prediction_table(summary: Predictions, model: Model) -> Widest:
    """Score and verdict of every file, or of those with the highest scores where there are many,
    and the share of it that is marked; where there is room its calibrated score."""
    columns = [Column("file", text=True), *map(Column, ("score", "verdict", "marked"))]
    columns.append(Column("calibrated"))
    shown = [_cells(row) for row in summary.rows]
    counts, total = summary.counts, summary.total
    title = f"{model.category}: {counts['reject']} of {total} images rejected"
    title += f", {counts['unreadable']} unreadable" if counts["unreadable"] else ""
    title += f"; the {len(shown)} highest scores" if len(shown) < total else ""
    caption = thresholds_text(model.thresholds)
    forms = [
        FittedTable(title, columns[:count], [Row(c[:count]) for c in shown], caption, enough=120)
        for count in (5, 4)
    ]
    return Widest(forms)


def _cells(row: PredictedFile) -> list[Cell]:
    file = visible(row.path)
    if row.score is None or row.calibrated is None:
        return [file, "–", Text(row.verdict, "yellow"), "–", "–"]
    verdict = Text(row.verdict, "red" if row.defect else "green")
    marked = f"{row.marked:.1%}" if row.defect else "–"
    return [file, f"{row.score:.4g}", verdict, marked, f"{row.calibrated:.3f}"]


def _pictures(summary: Predictions) -> str:
    readable = summary.total - summary.counts["unreadable"]
    if not summary.pictures:
        return "no pictures"
    if summary.pictures < readable:
        return (
            f"{summary.pictures} pictures (highest scores of {readable} images; --pictures all "
            "draws every one)"
        )
    return "1 picture" if summary.pictures == 1 else f"{summary.pictures} pictures"


def say_predictions(summary: Predictions, model: Model) -> None:
    """Print the table, notes and the place of the results. Exit with status 3 where files could
    not be read."""
    out.print(prediction_table(summary, model))
    for note in summary.notes:
        out.print(f"note: {note}")
    out.print(f"scores.csv, scores.jsonl, {_pictures(summary)}: {visible(summary.folder)}")
    if not summary.counts["unreadable"]:
        return
    sys.stdout.flush()
    named = [f"{visible(row.path)} ({row.reason})" for row in summary.unreadable]
    more = ", ..." if len(named) < summary.counts["unreadable"] else ""
    files = f"{summary.counts['unreadable']} of {summary.total} files could not be read"
    print(f"vqlab: {files}: {', '.join(named)}{more}; the others are scored.", file=sys.stderr)
    raise typer.Exit(UNREADABLE_STATUS)
