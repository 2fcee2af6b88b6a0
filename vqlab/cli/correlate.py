"""`vqlab correlate`: check whether validation and test rankings agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import Preset, Tracking, output_folder

if TYPE_CHECKING:
    from vqlab.correlate import Correlation


@app.command(short_help="Check whether validation and test rankings agree.")
def correlate(
    grid: Annotated[
        str,
        typer.Argument(help="Grid of settings: a YAML file or a name in experiments/studies."),
    ],
    category: Annotated[str, typer.Option("--category", "-c", help="Comma-separated categories.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", "-d", help="Dataset folder; may be repeated."),
    ] = None,
    preset: Preset = "full",
    results: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            "--results",
            help="Folder for the measurements.",
            callback=output_folder,
        ),
    ] = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Measure a grid of settings on validation and on test, and correlate the ranks (Spearman).

    Nothing is selected. Measurements are saved in results/correlate and reused, so the command can
    be run again to resume.
    """
    from vqlab.cli.progress import counting, interruptible, out
    from vqlab.correlate import correlate as run_grid
    from vqlab.correlate import read_grid
    from vqlab.tracking import Tracker

    name, _ = read_grid(grid)
    names = list(dict.fromkeys(filter(None, (word.strip() for word in category.split(",")))))
    with interruptible(), counting() as on_progress:
        correlations = run_grid(
            grid, data or (), names, Tracker.open(mlruns), preset=preset, results=results,
            on_progress=on_progress,
        )  # fmt: skip
    for detector in dict.fromkeys(result.detector for result in correlations):
        _print_tables(detector, [result for result in correlations if result.detector == detector])
    _print_reliability(correlations)
    for result in correlations:
        out.print(f"{result.detector} {result.category}: {result.link}")
    out.print(f"Settings and metrics: {results / 'correlate' / name}")


def _print_tables(detector: str, correlations: Sequence[Correlation]) -> None:
    """Print the objective's correlation per category and kind, then the means of all pairs."""
    from rich.table import Table

    from vqlab.cli.progress import out
    from vqlab.correlate import METRICS, OBJECTIVE, mean
    from vqlab.metrics import metric_title

    kinds = list(dict.fromkeys(kind for result in correlations for kind in result.kinds))
    objective = (OBJECTIVE, OBJECTIVE)
    table = Table(
        title=f"{detector}: rank correlation of validation and test pixel AUROC over settings",
        title_justify="left",
    )
    table.add_column("category")
    for column in ("settings", "all", "hold fixed", *kinds):
        table.add_column(column, justify="right")
    overall, fixed, by_kind = (
        mean([getattr(result, name) for result in correlations])
        for name in ("overall", "fixed", "kinds")
    )
    rows = [(r.category, str(r.settings), r.overall, r.fixed, r.kinds) for r in correlations]
    for category, settings, *values in [*rows, ("mean", "", overall, fixed, by_kind)]:
        cells = [_cell(values[0], objective), _cell(values[1], objective)]
        cells += [_cell(values[2], kind) for kind in kinds]
        table.add_row(category, settings, *cells, style="" if settings else "bold")
    out.print(table)
    for title, matrix in (("all settings", overall), ("hold fixed", fixed)):
        if matrix:
            table = Table(title=f"{detector}, mean over categories, {title}", title_justify="left")
            table.add_column("validation \\ test")
            for test in METRICS:
                table.add_column(metric_title(test), justify="right")
            for validation in METRICS:
                cells = [_cell(matrix, (validation, test)) for test in METRICS]
                table.add_row(metric_title(validation), *cells)
            out.print(table)


def _print_reliability(correlations: Sequence[Correlation]) -> None:
    """Print ρ and how far the test images limit it, per detector and over all detectors."""
    from rich.table import Table

    from vqlab.cli.progress import out
    from vqlab.correlate import OBJECTIVE, corrected

    table = Table(title="rank correlation, and what the test images allow", title_justify="left")
    table.add_column("category")
    table.add_column("detector")
    for column in ("all", "reliability", "corrected", "range"):
        table.add_column(column, justify="right")
    several = len({result.detector for result in correlations}) > 1
    for category in dict.fromkeys(result.category for result in correlations):
        results = [result for result in correlations if result.category == category]
        rows = [
            (r.detector, r.overall.get((OBJECTIVE, OBJECTIVE)), r.reliability, f"{r.spread:.3f}")
            for r in results
        ]
        if several:
            rows.append(("all detectors", results[0].across, results[0].across_reliability, ""))
        for detector, rho, reliability, spread in rows:
            values = (rho, reliability, corrected(rho, reliability))
            cells = ("–" if value is None else f"{value:+.2f}" for value in values)
            table.add_row(category, detector, *cells, spread)
    out.print(table)
    out.print(
        "reliability: of the ranking on test, from two halves of its images (Spearman-Brown); "
        "corrected: rank correlation / √reliability; range: of test pixel AUROC over the settings"
    )


def _cell(values: Mapping[Any, float], key: object) -> str:
    return f"{values[key]:+.2f}" if key in values else "–"
