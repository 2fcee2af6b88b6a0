"""The `leaderboard` command: runs measured on test, best first."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import Category, Tracking, Where

if TYPE_CHECKING:
    from vqlab.cli.leaderboard_table import Board
    from vqlab.tracking import RunRecord, Tracker


@app.command(short_help="List the runs measured on test, best first.")
def leaderboard(
    category: Category = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric to sort by, best first; default: test/image_auroc, or the next headline "
            "metric that a run has."
        ),
    ] = None,
    detector: Annotated[str | None, typer.Option(help="Detector, e.g. vqvae.")] = None,
    study: Annotated[str | None, typer.Option(help="Name of a study.")] = None,
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the rows as CSV.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List the runs measured on test, best first, with the no-learning baseline.

    Rows of one detector show the settings in which they differ. Wider terminals show more columns.
    """
    from vqlab.cli.leaderboard_table import make_board, seeds_table
    from vqlab.cli.progress import out
    from vqlab.errors import UserError
    from vqlab.tracking import Tracker
    from vqlab.tracking.run_filter import Condition, RunFilter

    if as_json and as_csv:
        raise UserError("--json and --csv are mutually exclusive; omit one.")
    tracker = Tracker.open(mlruns, create=False, write=False)
    category = None if category == "all" else category
    every = tracker.runs()
    metric = metric or _default_metric(every, category)
    chosen = RunFilter(
        detector=detector, study=study, conditions=[Condition.parse(text) for text in where or ()]
    )
    runs = chosen.select(_measured(every, category, metric))
    board = make_board(runs[:limit], len(runs), metric, _champions(tracker, runs))
    if as_json:
        typer.echo(json.dumps(board_rows(board), indent=2))
    elif as_csv:
        typer.echo(_csv(board_rows(board)), nl=False)
    elif not runs:
        out.print(
            "no run has been measured on test yet; use `vqlab train` or `vqlab sweep` with a "
            "dataset that has test images."
        )
    else:
        out.print(board.table())
        seeds = seeds_table(runs)
        if seeds is not None:
            out.print(seeds)


def _default_metric(every: Sequence[RunRecord], category: str | None) -> str:
    """Return the first headline metric that a run of the category has; not every test set has
    normal images and masks."""
    from vqlab.metrics import headlines

    metrics = [f"test/{name}" for name in headlines(1)]
    runs = [run for run in every if category in (None, run.experiment)]
    return next((key for key in metrics if any(key in run.metrics for run in runs)), metrics[0])


def _measured(every: Sequence[RunRecord], category: str | None, metric: str) -> list[RunRecord]:
    """Return the runs with test metrics, best first. Raises UserError if no run has the category or
    the metric."""
    from vqlab.errors import UserError, did_you_mean
    from vqlab.metrics import less_is_better
    from vqlab.tracking import matches_categories, ranked

    runs = ranked(every, metric, less_is_better(metric))
    if category is not None:
        matching = [run for run in runs if matches_categories(category, run.categories)]
        matching = matching or [run for run in runs if run.experiment == category]
        if not matching:
            names = sorted({_category(run) for run in runs})
            hint = (
                f"there are runs of {', '.join(names)}." if names else "there are no runs at all."
            )
            hint = did_you_mean(category, names) or hint
            raise UserError(f"category {category} has no runs; {hint}")
        runs = matching
    measured = [run for run in runs if any(key.startswith("test/") for key in run.metrics)]
    keys = {key for run in measured for key in run.metrics}
    if measured and metric not in keys:
        names = sorted(key for key in keys if key.startswith("test/") and key.count("/") == 1)
        names = [name for name in names if not name.endswith(("_low", "_high"))]
        hint = did_you_mean(metric, keys) or f"they have, among others, {', '.join(names)}."
        raise UserError(f"metric {metric} is not in any of these runs; {hint}")
    return measured


def _champions(tracker: Tracker, runs: Sequence[RunRecord]) -> set[str]:
    """Return the run IDs of the champions of the runs' categories."""
    versions = [
        tracker.registry.by_alias(names) for names in sorted({run.categories for run in runs})
    ]
    return {version.run_id for version in versions if version is not None}


def _category(run: RunRecord) -> str:
    """Return the category of a run, or its experiment if it has several."""
    return run.categories[0] if len(run.categories) == 1 else run.experiment


def board_rows(board: Board) -> list[dict[str, Any]]:
    """Return the rows as JSON values: run, data, test metrics, and the settings in which rows of
    one detector differ."""
    return [
        {
            "run_id": row.run.run_id,
            "name": row.run.name,
            "category": row.category,
            "detector": row.detector,
            "data": row.run.tags.get("vqlab.data", ""),
            "data_fingerprint": row.run.tags.get("vqlab.data_fingerprint", ""),
            "test_fingerprint": row.run.tags.get("vqlab.test_fingerprint", ""),
            "audit_warns": row.warned,
            "champion": row.champion,
            "seconds": row.run.duration,
            "metrics": {
                key: value
                for key, value in sorted(row.run.metrics.items())
                if key.startswith("test/") or key == board.metric
            },
            "settings": row.settings,
        }
        for row in board.rows
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """Format one line per run, with metrics and settings as columns."""
    flat = [{**row, **row["metrics"], **row["settings"]} for row in rows]
    for row in flat:
        del row["metrics"], row["settings"]
    text = io.StringIO()
    names = list(dict.fromkeys(key for row in flat for key in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()
