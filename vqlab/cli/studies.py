"""Commands `studies list` and `studies delete`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import app
from vqlab.cli.options import AsCsv, AsJson, Tracking
from vqlab.cli.rows import print_rows, require_one_format
from vqlab.cli.run_filter import with_run_filter

if TYPE_CHECKING:
    from vqlab.sweep.study.deletion import StoredSweep
    from vqlab.tracking import RunRecord
    from vqlab.tracking.run_filter import RunFilter

studies_app = typer.Typer(no_args_is_help=True, help="List and delete studies.")
app.add_typer(studies_app, name="studies")
_COLUMNS = ("name", "category", "detector", "status", "studies", "trials", "started")


@studies_app.command("list", short_help="List studies, newest first.")
@with_run_filter("category", "detector", "status", "older_than")
def list_studies(
    chosen: RunFilter,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List studies, newest first.

    Status: FINISHED when the target number of trials is reached; KILLED: interrupted.
    """
    from vqlab.cli.dashboard import store_address
    from vqlab.sweep.study.deletion import list_sweeps
    from vqlab.sweep.study.storage import opened_storage, storage_address
    from vqlab.tracking import Tracker

    require_one_format(as_json, as_csv)
    store_address(mlruns)  # raises UserError if there is no store
    with opened_storage(storage_address(mlruns)) as storage:
        sweeps = list_sweeps(storage)
    tracker = Tracker.open(mlruns, create=False, write=False)
    runs = {
        run.tags.get("vqlab.study", ""): run for run in tracker.runs(kinds=["study", "benchmark"])
    }
    selected = {run.run_id for run in chosen.select(runs.values())}
    rows = [
        _row(sweep, run)
        for sweep in sweeps
        for run in [runs.get(sweep.name)]
        if (chosen.empty if run is None else run.run_id in selected)
    ]
    if as_csv:
        print_rows([{**row, "studies": " ".join(row["studies"])} for row in rows], _COLUMNS, True)
    elif as_json:
        print_rows(rows, _COLUMNS, as_csv=False)
    else:
        _print_table(rows)


def _row(sweep: StoredSweep, run: RunRecord | None) -> dict[str, Any]:
    """Return a study as JSON values. run: its own run, None if it was deleted."""
    tags = run.tags if run else {}
    start = "" if sweep.start is None else sweep.start.isoformat(timespec="seconds")
    values = (
        sweep.name, tags.get("vqlab.category", ""), tags.get("vqlab.detector", ""),
        run.status if run else "", sweep.studies, sweep.trials, start,
    )  # fmt: skip
    return dict(zip(_COLUMNS, values, strict=True))


def _print_table(rows: list[dict[str, Any]]) -> None:
    from vqlab.cli.fit_width import Column, from_columns
    from vqlab.cli.progress import out

    fields = (
        (Column("study", text=True, unbroken=True), "name"),
        (Column("category", text=True, rank=2), "category"),
        (Column("detector", text=True, rank=3), "detector"),
        (Column("status", text=True, rank=1), "status"),
        (Column("trials"), "trials"),
    )
    columns = [(column, [str(row[name]) for row in rows]) for column, name in fields]
    starts = [row["started"][:16].replace("T", " ") for row in rows]
    columns.append((Column("started", text=True), starts))
    out.print(from_columns(f"studies: {len(rows)}", columns))


@studies_app.command("delete", short_help="Delete a study with its runs.")
def delete(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """Delete a study and its runs with their artifacts, after confirmation.

    Refused if a run has a registered version or is still being written. If the command is killed,
    run it again to delete the rest.
    """
    from vqlab.cli.dashboard import store_address
    from vqlab.cli.progress import out
    from vqlab.cli.runs import print_runs
    from vqlab.sweep.study.deletion import delete_sweep, runs_of
    from vqlab.sweep.study.storage import opened_storage, storage_address
    from vqlab.sweep.study.studies import load_studies
    from vqlab.tracking import Tracker
    from vqlab.tracking.deletion import require_deletable

    store_address(mlruns)
    tracker = Tracker.open(mlruns, create=False)
    with opened_storage(storage_address(mlruns)) as storage:
        studies = load_studies(storage, name)
        runs = runs_of(tracker, studies.name)
        require_deletable(tracker, runs)
        print_runs(runs, "to be deleted, with their artifacts")
        question = f"Delete study {studies.name} ({len(studies.trials())} trials)?"
        if not yes and not typer.confirm(question, default=False):
            out.print("nothing was deleted.")
            raise typer.Exit(1)
        delete_sweep(tracker, storage, studies.name)
    out.print(f"deleted study {studies.name}; runs deleted: {len(runs)}")
