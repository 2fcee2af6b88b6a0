"""Command `compare`: two or more runs on the same test images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import RUN, Tracking, output_file


@app.command(short_help="Compare runs on the same test images (paired bootstrap).")
def compare(
    runs: Annotated[list[str], typer.Argument(help=f"Two or more runs ({RUN}).")],
    baseline: Annotated[
        str, typer.Option(help="Run to compare the others with: `first`, `best` or a run.")
    ] = "first",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="HTML page with test images side by side, also logged to MLflow; default: "
            "results/comparison.html for three or more runs, none for two.",
            callback=output_file,
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Maximum number of test images on the page.")
    ] = 12,
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Random seed of the resamples.")] = 0,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Compare runs on the same test images: differences with 95 % intervals and p-values.

    All runs are evaluated on the same resamples of the test images (paired bootstrap). Rates
    (escapes, false rejects) are compared with McNemar's exact test. No interval is given for fewer
    than 5 normal or 5 anomalous images, or if all resamples agree. The page shows the settings that
    differ, the metrics, and the test images on which the runs disagree most.
    """
    from vqlab.cli.metric_tables import comparison_tables, runs_tables
    from vqlab.cli.progress import out
    from vqlab.compare import compare as compare_pair
    from vqlab.compare import compare_runs, log_comparison
    from vqlab.errors import UserError
    from vqlab.text import visible
    from vqlab.tracking import Tracker

    if len(runs) < 2:
        raise UserError("compare needs two or more runs; `vqlab leaderboard` lists them.")
    if len(runs) == 2 and output is None and baseline == "first":
        tracker = Tracker.open(mlruns, create=False, write=False)
        pair = compare_pair(tracker, *runs, resamples=resamples, seed=seed)
        for table in comparison_tables(pair):
            out.print(table)
        out.print("bold: 95 % interval excludes 0")
        return
    tracker = Tracker.open(mlruns, create=False)
    comparison = compare_runs(
        tracker, runs, baseline=baseline, resamples=resamples, seed=seed, images=images
    )
    for table in runs_tables(comparison):
        out.print(table)
    out.print("*: 95 % interval excludes 0")
    page = output or Path("results/comparison.html")
    link = log_comparison(tracker, comparison, page)
    out.print(f"page: {visible(page)}")
    out.print(f"in MLflow: {link}")
