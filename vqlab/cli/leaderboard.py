"""The `leaderboard` command: runs measured on test, best first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import AsCsv, AsJson, Category, Detector, Study, Tracking, Where
from vqlab.cli.rows import print_rows, require_one_format

if TYPE_CHECKING:
    from vqlab.cli.leaderboard_table import Board
    from vqlab.tracking import RunRecord


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
    detector: Detector = None,
    study: Study = None,
    where: Where = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows.")] = 20,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List the runs measured on test, best first, with the no-learning baseline.

    Rows of one detector show the settings in which they differ. Wider terminals show more columns.
    """
    from vqlab.cli.leaderboard_table import make_board, seeds_table
    from vqlab.cli.progress import out
    from vqlab.tracking.overview import read_overview
    from vqlab.tracking.run_filter import Condition, RunFilter

    require_one_format(as_json, as_csv)
    category = None if category == "all" else category
    overview = read_overview(mlruns)
    every = overview.runs
    metric = metric or _default_metric(every, category)
    chosen = RunFilter(
        detector=detector, study=study, conditions=[Condition.parse(text) for text in where or ()]
    )
    runs = chosen.select(_measured(every, category, metric))
    board = make_board(runs[:limit], len(runs), metric, overview.champions)
    if as_json:
        print_rows(board_rows(board), (), as_csv=False)
    elif as_csv:
        rows = _flat(board_rows(board))
        print_rows(rows, list(dict.fromkeys(key for row in rows for key in row)), as_csv=True)
    elif not runs:
        out.print(
            "no run has been measured on test yet; run `vqlab train` or `vqlab sweep` on a dataset "
            "with test images."
        )
    else:
        out.print(board.table())
        seeds = seeds_table(runs)
        if seeds is not None:
            out.print(seeds)
        experiments = {row.run.experiment for row in board.rows}
        if len(experiments) == 1 and experiments <= set(overview.charts):
            out.print(f"charts and pictures: {overview.charts[experiments.pop()]}")


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
    from vqlab.metrics import lower_is_better
    from vqlab.tracking import matches_categories, ranked

    runs = ranked(every, metric, lower_is_better(metric))
    if category is not None:
        matching = [run for run in runs if matches_categories(category, run.categories)]
        matching = matching or [run for run in runs if run.experiment == category]
        if not matching:
            names = sorted({_category(run) for run in runs})
            hint = f"there are runs of {', '.join(names)}." if names else "there are no runs."
            hint = did_you_mean(category, names) or hint
            raise UserError(f"category {category} has no runs; {hint}")
        runs = matching
    measured = [run for run in runs if any(key.startswith("test/") for key in run.metrics)]
    keys = {key for run in measured for key in run.metrics}
    if measured and metric not in keys:
        names = sorted(key for key in keys if key.startswith("test/") and key.count("/") == 1)
        names = [name for name in names if not name.endswith(("_low", "_high"))]
        hint = did_you_mean(metric, keys) or f"their metrics include {', '.join(names)}."
        raise UserError(f"none of these runs has the metric {metric}; {hint}")
    return measured


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


def _flat(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with metrics and settings as columns."""
    flat = [{**row, **row["metrics"], **row["settings"]} for row in rows]
    for row in flat:
        del row["metrics"], row["settings"]
    return flat
