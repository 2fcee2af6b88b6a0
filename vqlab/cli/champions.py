"""Commands on champions: `promote`, `history`, `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import RUN, CategoryArgument, Data, Tracking, one_category, output_folder

if TYPE_CHECKING:
    from vqlab.promote import Promotion

CategoryName = Annotated[
    str, typer.Option("--category", "-c", help="Product category, e.g. cable.")
]
CategoryOption = Annotated[
    str | None, typer.Option("--category", "-c", help="The category, instead of the argument.")
]


@app.command(short_help="Promote a run to champion if it passes the gates.")
def promote(
    category: CategoryName,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings of the gates, e.g. gates.margin=0.05 gates.rule=superior "
            "gates.promise=warn gates.max_latency_ms=200.",
            metavar="GATES",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help=f"Run to promote ({RUN}); default: best run of the latest study."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Compare only the value of this metric, e.g. test/pixel_auroc (gates.metric).",
        ),
    ] = None,
    min_delta: Annotated[
        float | None,
        typer.Option(help="Minimum improvement over the champion (gates.min_delta); default: 0."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Promote even if it is worse than the champion (recorded)."),
    ] = False,
    without_test: Annotated[
        bool,
        typer.Option(
            "--without-test",
            help="Promote without real test images: compare validation/pixel_auroc, measured on "
            "synthetic anomalies (recorded).",
        ),
    ] = False,
    data: Data = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the acceptance report.", callback=output_folder
        ),
    ] = Path("results"),
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Promote a run to champion of its category if it passes the gates.

    Compared with the champion on the same test images (paired bootstrap), none of image AUROC,
    AUPRO and escapes may be worse by more than gates.margin (0.02), and at least one must be
    better. The model must keep the false-reject rate that its threshold promises, must have no
    dead codebook, and must reproduce its scores in a fresh process, whose latency and memory are
    measured. The gates are recorded with the version and in an acceptance report (HTML). Exit
    status 1: refused.
    """
    from vqlab.promote import gate_settings
    from vqlab.promote import promote as promote_run
    from vqlab.tracking import Tracker

    settings = gate_settings(overrides or (), metric=metric, min_delta=min_delta)
    tracker = Tracker.open(mlruns, create=False)
    result = promote_run(
        tracker, category, ref=run, gates=settings, force=force, without_test=without_test,
        data=data, output=output,
    )  # fmt: skip
    print_promotion(result)


def print_promotion(result: Promotion) -> None:
    """Print the gates, the decision and the path of the report; exit with status 1 if refused."""
    from vqlab.cli.gate_table import gate_table
    from vqlab.cli.terminal import marked, out

    if result.gates:
        out.print(gate_table(result.gates))
    head = "promoted: " if result.promoted else ""
    out.print(marked(head, "bold green", result.reason))
    if result.report:
        out.print(f"acceptance report: {result.report}")
    if not result.promoted and not result.is_champion:
        raise typer.Exit(1)


@app.command(short_help="List the versions of a category and their gates.")
def history(
    category: CategoryArgument = None,
    option: CategoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all fields as JSON.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List the versions of a category, newest first: run, when it became champion and who promoted
    it, the version it replaced, metric, gates and reason."""
    import json
    from dataclasses import asdict

    from vqlab.cli.gate_table import history_table
    from vqlab.cli.terminal import out
    from vqlab.promote import history as versions_of
    from vqlab.tracking import Tracker

    name = one_category(category, option)
    versions = versions_of(Tracker.open(mlruns, create=False, write=False), name)
    if as_json:
        print(json.dumps([asdict(version) for version in versions], indent=2))
    else:
        out.print(history_table(name, versions))


@app.command(short_help="Restore an earlier champion.")
def rollback(
    category: CategoryName,
    to: Annotated[
        int | None, typer.Option(min=1, help="Version to restore; default: the previous one.")
    ] = None,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Restore an earlier champion of a category. Repeat to go further back."""
    from vqlab.cli.terminal import out
    from vqlab.promote import rollback as roll_back
    from vqlab.tracking import Tracker

    out.print(roll_back(Tracker.open(mlruns, create=False), category, to).reason)
