"""`vqlab data …`: check, show, make, list."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vqlab.cli import data_app
from vqlab.cli.options import Category, Data

Root = Annotated[
    Path | None,
    typer.Argument(help="Data set folder; default: data/MVTec, data/VisA, or the synthetic set."),
]


@data_app.command()
def check(root: Root = None, category: Category = None) -> None:
    """Check a data set whole: counts, every image and mask, duplicates; print its fingerprint."""
    from vqlab.cli.progress import counting, out
    from vqlab.cli.tables import check_table
    from vqlab.data import DataSettings, check_dataset, find_root

    with counting() as on_progress:
        drawing = partial(on_progress, "drawing the synthetic set")
        folder, _ = find_root(DataSettings(root=root, categories=category or "all"), drawing)
        names = [category] if category and category != "all" else None
        report = check_dataset(folder, names, partial(on_progress, "checking images"))
    check_table(report)
    if report.errors:
        out.print(f"[bold red]{len(report.errors)} errors[/]")
        raise typer.Exit(1)
    out.print(f"[bold green]sound[/]; fingerprint {report.fingerprint}")


@data_app.command()
def show(
    root: Root = None,
    category: Category = None,
    to: Annotated[Path, typer.Option(help="The picture to write.")] = Path(
        "results/contact_sheet.png"
    ),
) -> None:
    """Write a contact sheet: good images, and each kind of defect with its mask's outline."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import DataSettings, categories_in, contact_sheet, find_root

    with counting() as on_progress:
        drawing = partial(on_progress, "drawing the synthetic set")
        folder, _ = find_root(DataSettings(root=root, categories=category or "all"), drawing)
    names = [category] if category and category != "all" else categories_in(folder)
    contact_sheet(folder, names, to)
    out.print(f"contact sheet: {to}")


@data_app.command()
def make(
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/synthetic"),
    category: Category = None,
    seed: Annotated[int, typer.Option(help="Another seed makes another set.")] = 0,
) -> None:
    """Make the built-in synthetic set (done by itself where no data are given)."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import make_synthetic

    names = [category] if category and category != "all" else None
    with counting() as on_progress:
        made = make_synthetic(to, names, seed, partial(on_progress, "drawing"))
    out.print(f"synthetic set: {made}")


@data_app.command(name="list")
def list_categories(data: Data = None) -> None:
    """The categories of a data set."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import DataSettings, categories_in, find_root

    with counting() as on_progress:
        drawing = partial(on_progress, "drawing the synthetic set")
        folder, source = find_root(DataSettings(root=data, categories="all"), drawing)
    out.print(f"{source} at {folder}:")
    for name in categories_in(folder):
        out.print(f"  {name}")
