"""Commands `studies list` and `studies delete`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vqlab.cli import app
from vqlab.cli.options import Tracking

studies_app = typer.Typer(no_args_is_help=True, help="List and delete studies.")
app.add_typer(studies_app, name="studies")


@studies_app.command("list", short_help="List studies, newest first.")
def list_studies(
    as_json: Annotated[bool, typer.Option("--json", help="Print the studies as JSON.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List studies, newest first."""
    from vqlab.cli.dashboard import store_address
    from vqlab.cli.fit_width import Column, from_columns
    from vqlab.cli.progress import out
    from vqlab.sweep.study.deletion import list_sweeps
    from vqlab.sweep.study.storage import opened_storage, storage_address

    store_address(mlruns)  # raises UserError if there is no store
    with opened_storage(storage_address(mlruns)) as storage:
        sweeps = list_sweeps(storage)
    starts = ["" if s.start is None else s.start.isoformat(timespec="seconds") for s in sweeps]
    if as_json:
        rows = [
            {"name": sweep.name, "studies": sweep.studies, "trials": sweep.trials, "started": start}
            for sweep, start in zip(sweeps, starts, strict=True)
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    columns = [
        (Column("study", text=True, unbroken=True), [sweep.name for sweep in sweeps]),
        (Column("trials"), [str(sweep.trials) for sweep in sweeps]),
        (Column("started", text=True), [start[:16].replace("T", " ") for start in starts]),
    ]
    out.print(from_columns(f"studies: {len(sweeps)}", columns))


@studies_app.command("delete", short_help="Delete a study with its runs.")
def delete(
    name: Annotated[str, typer.Argument(help="Name of the study.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    mlruns: Tracking = Path("mlruns"),
) -> None:
    """List the runs of a study, ask, and delete them with their artifacts and the Optuna study.

    Refused if a run has a registered version or is being written. If the command is killed, repeat
    it to delete the rest.
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
