"""`vqlab data …`: check, show, validation, audit, make, list (and cache, in `cache.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import data_app
from vqlab.cli.options import Bad, Category, Data, Good

if TYPE_CHECKING:
    from vqlab.data import CategoryAudit, DataSettings
    from vqlab.run import OnProgress

Root = Annotated[
    Path | None,
    typer.Argument(help="Data set folder; default: data/MVTec, data/VisA, or the synthetic set."),
]


@data_app.command()
def check(
    root: Root = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    bits: Annotated[
        int | None, typer.Option(min=8, max=32, help="Bits that the camera used, as data.bits.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 for warnings, too.")
    ] = False,
) -> None:
    """Validate a data set: files, masks, duplicates, unused images; print its fingerprint.

    Exit status 1 for errors, which keep the set from being used; 0 for warnings, or 1 with
    --strict.
    """
    from vqlab.cli.progress import counting
    from vqlab.cli.tables import check_summary, check_table
    from vqlab.cli.terminal import out
    from vqlab.data import check_dataset, find_layout, find_root

    settings = _settings(root, category, good, bad)
    with counting() as on_progress:
        folder, _ = find_root(settings, partial(on_progress, "drawing the synthetic set"))
        where = find_layout(settings) if good is not None else folder
        names = None if settings.categories == "all" else settings.categories
        report = check_dataset(where, names, partial(on_progress, "checking images"), bits)
    check_table(report)
    out.print(check_summary(report))
    if report.errors or (strict and report.warnings):
        raise typer.Exit(1)


@data_app.command()
def show(
    root: Root = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    to: Annotated[Path, typer.Option(help="The picture to write.")] = Path(
        "results/contact_sheet.png"
    ),
) -> None:
    """Write a contact sheet: good images, and each kind of defect with its mask's outline."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import contact_sheet, find_layout, find_root

    settings = _settings(root, category, good, bad)
    with counting() as on_progress:
        find_root(settings, partial(on_progress, "drawing the synthetic set"))
    names = None if settings.categories == "all" else settings.categories
    contact_sheet(find_layout(settings), names, to)
    out.print(f"contact sheet: {to}")


@data_app.command()
def validation(
    root: Root = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("results/validation"),
    source: Annotated[
        str, typer.Option(help="`drawn` or `test`, as data.validation.source.")
    ] = "drawn",
    seed: Annotated[int, typer.Option(help="As data.seed.")] = 0,
) -> None:
    """Write the images and masks that choose settings, and a contact sheet of them."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import load_dataset, write_picture, write_pictures
    from vqlab.text import folder_name

    whole = _settings(root, category, good, bad, seed=seed, validation={"source": source})
    with counting() as on_progress:
        for settings in _each_category(whole, on_progress):
            splits = load_dataset(settings, partial(on_progress, "reading images"))
            write_pictures(splits.validation, to)
            sheet = to / f"{folder_name(splits.categories[0])}_contact_sheet.png"
            write_picture(splits.validation_sheet, sheet)
            out.print(f"{len(splits.validation)} images ({settings.validation.described}): {to}")
            out.print(f"contact sheet: {sheet}")


@data_app.command()
def audit(
    root: Root = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    brightness: Annotated[
        str, typer.Option(help="`keep` or `border`, as data.brightness.")
    ] = "keep",
) -> None:
    """Warn where trivial statistics of the images separate test normals from test defects."""
    from vqlab.cli.progress import counting
    from vqlab.cli.tables import audit_table
    from vqlab.cli.terminal import marked, out
    from vqlab.data import STATISTICS, load_dataset
    from vqlab.data import audit as audit_splits

    rows: list[CategoryAudit] = []
    whole = _settings(root, category, good, bad, brightness=brightness)
    with counting() as on_progress:
        for settings in _each_category(whole, on_progress):
            splits = load_dataset(settings, partial(on_progress, "reading images"))
            rows += audit_splits(splits).values()
    audit_table(rows, STATISTICS)
    if not any(row.warnings for row in rows):
        out.print(marked("no statistic alone separates a test set", "bold green"))


def _settings(
    root: Path | None, category: str | None, good: Path | None, bad: Path | None, **more: object
) -> DataSettings:
    """Settings of the images given on the command line; all categories where none is named."""
    from vqlab.config import validate
    from vqlab.data import DataSettings
    from vqlab.recipes import Folders

    folders = Folders(root, good, bad)
    name = category or folders.category or "all"
    tree = {"categories": name if name == "all" else [name], **more}
    return validate(DataSettings, folders.over({"data": tree})["data"], "data.")


def _each_category(whole: DataSettings, on_progress: OnProgress) -> Iterator[DataSettings]:
    """Settings of one category after the other, one in memory at a time."""
    from vqlab.data import choose_categories, find_root

    find_root(whole, partial(on_progress, "drawing the synthetic set"))
    for name in choose_categories(whole):
        yield whole.model_copy(update={"categories": (name,)})


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
