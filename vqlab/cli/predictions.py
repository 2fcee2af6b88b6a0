"""Output of `vqlab predict`: table, summary and exit status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from vqlab.cli.fit_width import Cell, Column, FittedTable, Row
from vqlab.cli.metric_tables import thresholds_text
from vqlab.cli.terminal import out
from vqlab.evaluation import PASS
from vqlab.pixels.aspect import MAX_RATIO
from vqlab.predict.coco import COCO_NAME
from vqlab.text import visible

if TYPE_CHECKING:
    from vqlab.model import Model
    from vqlab.predict import PredictedFile, Predictions

COLOURS = {"pass": "green", "review": "yellow", "reject": "red", "unreadable": "yellow"}
UNREADABLE_STATUS = 3
"""Exit status if files could not be scored."""


def prediction_table(summary: Predictions, model: Model) -> FittedTable:
    """Return a table of score, verdict and marked share of every file, or of those with the highest
    scores; with calibrated score and p-value if the terminal is wide enough."""
    columns = [Column("file", text=True, unbroken=True)]
    columns += map(Column, ("score", "verdict", "marked"))
    columns += [Column("calibrated", rank=1), Column("p-value", rank=1)]
    rows = [Row(_cells(row)) for row in summary.rows]
    counts, total = summary.counts, summary.total
    title = f"{model.category}: {counts['reject']} of {total} images rejected"
    title += f", {counts['review']} in review" if model.thresholds.review is not None else ""
    title += f", {counts['unreadable']} unreadable" if counts["unreadable"] else ""
    title += f"; the {len(rows)} highest scores" if len(rows) < total else ""
    return FittedTable(title, columns, rows, thresholds_text(model.thresholds))


def _cells(row: PredictedFile) -> list[Cell]:
    file = visible(row.path)
    if row.score is None or row.calibrated is None:
        return [file, "–", Text(row.verdict, "yellow"), "–", "–", "–"]
    verdict = Text(row.verdict, COLOURS[row.verdict])
    marked = f"{row.marked:.1%}" if row.verdict != PASS else "–"
    p_value = "–" if row.p_value is None else f"{row.p_value:.3g}"
    return [file, f"{row.score:.4g}", verdict, marked, f"{row.calibrated:.3f}", p_value]


def _pictures(summary: Predictions) -> str:
    readable = summary.total - summary.counts["unreadable"]
    if not summary.pictures:
        return "no pictures"
    text = "1 picture" if summary.pictures == 1 else f"{summary.pictures} pictures"
    if summary.pictures < readable:
        text += f" (highest scores of {readable} images; use --pictures all for every image)"
    return text


def _shapes(summary: Predictions, model: Model) -> list[str]:
    """Return a sentence on the images whose shape is unlike that of all training images, or on
    images of very different shapes if the model does not state those of its training images."""
    low, high = summary.aspect_ratios or (1.0, 1.0)
    if model.data.tiles.size is None and model.aspect_ratios is None and high >= MAX_RATIO * low:
        return [
            f"the aspect ratios of the images are {low:.3g} to {high:.3g}; the model (of an older "
            "vqlab) does not store those of its training images: scores of images of another shape "
            "may mean little."
        ]
    if not summary.noted_count:
        return []
    files = [f"{visible(row.path)} ({row.note})" for row in summary.noted]
    files += ["..."] if len(files) < summary.noted_count else []
    counts = f"{summary.noted_count} of {summary.total} images"
    return [f"shape unlike that of all training images: {counts}: {', '.join(files)}."]


def print_predictions(summary: Predictions, model: Model) -> None:
    """Print the table, the notes and the results folder. Exit with status 3 if files could not be
    scored."""
    out.print(prediction_table(summary, model))
    for note in [*summary.notes, *_shapes(summary, model)]:
        out.print(f"note: {note}")
    coco = f"{COCO_NAME}, " if (summary.folder / COCO_NAME).exists() else ""
    out.print(f"scores.csv, scores.jsonl, {coco}{_pictures(summary)}: {visible(summary.folder)}")
    if not summary.counts["unreadable"]:
        return
    sys.stdout.flush()
    files = [f"{visible(row.path)} ({row.reason.rstrip('.')})" for row in summary.unreadable]
    files += ["..."] if len(files) < summary.counts["unreadable"] else []
    counts = f"{summary.counts['unreadable']} of {summary.total} files could not be scored"
    others = "; the others were scored" if summary.counts["unreadable"] < summary.total else ""
    print(f"vqlab: {counts}: {', '.join(files)}{others}.", file=sys.stderr)
    raise typer.Exit(UNREADABLE_STATUS)
