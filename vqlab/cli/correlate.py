"""`vqlab correlate`: do validation and test rank settings alike?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import Preset, Tracking

if TYPE_CHECKING:
    from vqlab.correlate import Correlation


@app.command(short_help="Ask whether validation ranks settings as test does.")
def correlate(
    study: Annotated[
        str, typer.Argument(help="A study: a YAML file, or a name under experiments/studies.")
    ],
    category: Annotated[
        str, typer.Option("--category", "-c", help="Product classes, with commas between.")
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", "-d", help="Data set folder; may be given several times."),
    ] = None,
    preset: Preset = "full",
    results: Annotated[Path, typer.Option(help="Where measured settings are kept.")] = Path(
        "results"
    ),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Measure many settings on validation and on test, and correlate the ranks (Spearman).

    A study, not a search: nothing is chosen by it. Run it again after an interruption: settings
    that are measured are kept in results/correlate and not measured again.
    """
    from vqlab.cli.progress import counting, interruptible, out
    from vqlab.correlate import correlate as run_study
    from vqlab.correlate import read_study
    from vqlab.tracking import Tracker

    name, _ = read_study(study)
    names = list(dict.fromkeys(filter(None, (word.strip() for word in category.split(",")))))
    with interruptible(), counting() as on_progress:
        found = run_study(
            study, data or (), names, Tracker.open(mlruns), preset=preset, results=results,
            on_progress=on_progress,
        )  # fmt: skip
    for detector in dict.fromkeys(each.detector for each in found):
        _say(detector, [each for each in found if each.detector == detector])
    for each in found:
        out.print(f"{each.detector} {each.category}: {each.link}")
    out.print(f"settings and figures: {results / 'correlate' / name}")


def _say(detector: str, found: Sequence[Correlation]) -> None:
    """The objective's correlation and those by drawn kind per category; all pairs' means."""
    from rich.table import Table

    from vqlab.cli.progress import out
    from vqlab.correlate import METRICS, OBJECTIVE, mean
    from vqlab.metrics import metric_title

    kinds = list(dict.fromkeys(kind for each in found for kind in each.kinds))
    objective = (OBJECTIVE, OBJECTIVE)
    table = Table(
        title=f"{detector}: validation with test pixel AUROC, rank correlation over settings",
        title_justify="left",
    )
    table.add_column("category")
    for column in ("settings", "all", "score's form held", *kinds):
        table.add_column(column, justify="right")
    for each in found:
        cells = [_cell(pairs, objective) for pairs in (each.free, each.held)]
        cells += [_cell(each.kinds, kind) for kind in kinds]
        table.add_row(each.category, str(each.settings), *cells)
    free, within, by_kind = (
        mean([getattr(each, name) for each in found]) for name in ("free", "held", "kinds")
    )
    cells = [_cell(free, objective), _cell(within, objective)]
    table.add_row("mean", "", *cells, *(_cell(by_kind, kind) for kind in kinds), style="bold")
    out.print(table)
    for title, pairs in (("all settings", free), ("score's form held", within)):
        if pairs:
            table = Table(title=f"{detector}, mean over categories, {title}", title_justify="left")
            table.add_column("validation \\ test")
            for judged in METRICS:
                table.add_column(metric_title(judged), justify="right")
            for chosen in METRICS:
                cells = [_cell(pairs, (chosen, judged)) for judged in METRICS]
                table.add_row(metric_title(chosen), *cells)
            out.print(table)


def _cell(values: Mapping[Any, float], key: object) -> str:
    return f"{values[key]:+.2f}" if key in values else "–"
