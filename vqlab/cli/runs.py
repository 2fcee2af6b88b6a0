"""Commands `runs list` and `runs delete`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import RUN, AsCsv, AsJson, Tracking
from vqlab.cli.rows import print_rows, require_one_format
from vqlab.cli.run_filter import with_run_filter
from vqlab.errors import UserError

if TYPE_CHECKING:
    from vqlab.tracking import RunRecord, Tracker
    from vqlab.tracking.run_filter import RunFilter

runs_app = typer.Typer(no_args_is_help=True, help="List and delete runs.")
app.add_typer(runs_app, name="runs")
_NOTHING = "no run matches."


@runs_app.command("list", short_help="List runs, newest first.")
@with_run_filter()
def list_runs(
    chosen: RunFilter,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List runs, newest first."""
    from vqlab.cli.progress import out
    from vqlab.tracking import Tracker

    require_one_format(as_json, as_csv)
    runs = chosen.select(Tracker.open(mlruns, create=False, write=False).runs())
    if as_json or as_csv:
        print_rows([run_row(run) for run in runs], _COLUMNS, as_csv)
    else:
        print_runs(runs, f"runs: {len(runs)}")
        if not runs:
            out.print(_NOTHING)


@runs_app.command("delete", short_help="Delete runs with their artifacts.", no_args_is_help=True)
@with_run_filter()
def delete(
    references: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Runs to delete ({RUN}); alternatively, use the filters.", metavar="[RUN]..."
        ),
    ] = None,
    *,
    chosen: RunFilter,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Delete runs with their artifacts and checkpoints, after confirmation.

    The filters are those of `runs list`. Runs of registered versions (such as champions) and runs
    that are still being written are never deleted.
    """
    from vqlab.cli.progress import out
    from vqlab.tracking import Tracker
    from vqlab.tracking.deletion import delete_runs, require_deletable

    if bool(references) != chosen.empty:
        got = "both" if references else "neither"
        raise UserError(f"runs to delete must be given by name or by filters; got {got}.")
    tracker = Tracker.open(mlruns, create=False)
    runs = list({run.run_id: run for run in map(tracker.find, references or ())}.values())
    require_deletable(tracker, runs)
    runs = runs or _select(tracker, chosen)
    if not runs:
        out.print("nothing was deleted.")
        return
    print_runs(runs, f"to be deleted, with their artifacts: {len(runs)}")
    if not yes and not typer.confirm("Delete?", default=False):
        out.print("nothing was deleted.")
        raise typer.Exit(1)
    delete_runs(tracker, runs)
    out.print(f"runs deleted: {len(runs)}")


def _select(tracker: Tracker, chosen: RunFilter) -> list[RunRecord]:
    """Return the selected runs that may be deleted; print why others may not."""
    from vqlab.cli.progress import out
    from vqlab.tracking.deletion import not_deletable

    selected = chosen.select(tracker.runs())
    if not selected:
        out.print(_NOTHING)
    reasons = not_deletable(tracker, selected)
    for run in selected:
        if run.run_id in reasons:
            out.print(f"not deleted: run {run.short}; {reasons[run.run_id]}.")
    return [run for run in selected if run.run_id not in reasons]


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
