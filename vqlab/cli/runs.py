"""Commands `runs list` and `runs delete`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import RUN, Category, Tracking, Where

if TYPE_CHECKING:
    from vqlab.tracking import RunRecord

runs_app = typer.Typer(no_args_is_help=True, help="List and delete runs.")
app.add_typer(runs_app, name="runs")


@runs_app.command("list", short_help="List runs, newest first.")
def list_runs(
    category: Category = None,
    detector: Annotated[str | None, typer.Option(help="Detector, e.g. vqvae.")] = None,
    status: Annotated[str | None, typer.Option(help="RUNNING, FINISHED, FAILED or KILLED.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="train, trial, evaluate, study or comparison.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Name of a study.")] = None,
    older_than: Annotated[str | None, typer.Option(help="Age, e.g. 12h, 7d or 2w.")] = None,
    where: Where = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the runs as CSV.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List runs, newest first."""
    from vqlab.cli.progress import out
    from vqlab.errors import UserError
    from vqlab.tracking import Tracker
    from vqlab.tracking.run_filter import Condition, RunFilter, parse_age

    if as_json and as_csv:
        raise UserError("--json and --csv are mutually exclusive; omit one.")
    chosen = RunFilter(
        category=None if category == "all" else category,
        detector=detector,
        status=status,
        kind=kind,
        study=study,
        older_than=None if older_than is None else parse_age(older_than),
        conditions=[Condition.parse(text) for text in where or ()],
    )
    runs = chosen.select(Tracker.open(mlruns, create=False, write=False).runs())
    if as_json:
        typer.echo(json.dumps([run_row(run) for run in runs], indent=2))
    elif as_csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(run_row(run) for run in runs)
        typer.echo(text.getvalue(), nl=False)
    else:
        print_runs(runs, f"runs: {len(runs)}")
        if not runs:
            out.print("no run matches.")


@runs_app.command("delete", short_help="Delete runs with their artifacts.")
def delete(
    references: Annotated[list[str], typer.Argument(help=f"Runs to delete ({RUN}).")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List runs, ask, and delete them with their artifacts.

    A run of a registered version, and a run that is being written, is never deleted.
    """
    from vqlab.cli.progress import out
    from vqlab.tracking import Tracker
    from vqlab.tracking.deletion import delete_runs, require_deletable

    tracker = Tracker.open(mlruns, create=False)
    runs = list({run.run_id: run for run in map(tracker.find, references)}.values())
    require_deletable(tracker, runs)
    print_runs(runs, "to be deleted, with their artifacts")
    if not yes and not typer.confirm("Delete?", default=False):
        out.print("nothing was deleted.")
        raise typer.Exit(1)
    delete_runs(tracker, runs)
    out.print(f"runs deleted: {len(runs)}")


_COLUMNS = ("run_id", "name", "category", "detector", "kind", "status", "started", "seconds")


def run_row(run: RunRecord) -> dict[str, Any]:
    """Return a run as JSON values."""
    values = (
        run.run_id, run.name, run.tags.get("vqlab.category", run.experiment),
        run.tags.get("vqlab.detector", ""), run.tags.get("vqlab.kind", ""), run.status,
        run.start.isoformat(timespec="seconds"), run.duration,
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def print_runs(runs: list[RunRecord], title: str) -> None:
    """Print runs as a table; nothing if there are none."""
    from vqlab.cli.fit_width import Column, from_columns
    from vqlab.cli.progress import out

    if not runs:
        return
    rows = [run_row(run) for run in runs]
    columns = []
    for rank, name in enumerate(_COLUMNS):
        cells = [str(row[name])[:8] if name == "run_id" else str(row[name]) for row in rows]
        if name == "seconds":
            cells = ["–" if row[name] is None else f"{row[name]:.0f}" for row in rows]
        if name == "started":
            cells = [f"{run.start:%Y-%m-%d %H:%M}" for run in runs]
        header = {"run_id": "run", "started": "started (UTC)"}.get(name, name)
        columns.append((Column(header, text=name != "seconds", rank=rank), cells))
    out.print(from_columns(title, columns))
