"""`vqlab data …`: check, show, validation, audit, generate, list (and cache, in `cache.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqlab.cli import data_app
from vqlab.cli.options import Bad, Category, Data, Good

if TYPE_CHECKING:
    from vqlab.data import CategoryAudit, DataSettings
    from vqlab.run import OnProgress

Root = Annotated[
    Path | None,
    typer.Argument(help="Dataset folder; default: data/MVTec, data/VisA, or the synthetic set."),
]
_FILES = "FILE or '{CATEGORY: FILE, ...}'"
Roi = Annotated[
    str | None,
    typer.Option(metavar=_FILES, help="Mask or polygons of the inspected area; see data.roi."),
]
Ignore = Annotated[
    str | None,
    typer.Option(metavar=_FILES, help="Mask or polygons of areas to ignore; see data.ignore."),
]
GENERATING = "generating the synthetic set"


def _output(help: str) -> Any:
    """Return the option `--output`; its former name is `--to`."""
    return typer.Option("--output", "--to", "-o", help=help)


@data_app.command(short_help="Validate a dataset.")
def check(
    root: Root = None,
    data: Data = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    bits: Annotated[
        int | None, typer.Option(min=8, max=32, help="Bit depth of the camera; see data.bits.")
    ] = None,
    roi: Roi = None,
    ignore: Ignore = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Also exit with status 1 for warnings.")
    ] = False,
) -> None:
    """Validate a dataset (files, masks, duplicates, unused images) and print its fingerprint.

    Exit status: 1 for errors, which prevent using the dataset; 0 for warnings (1 with --strict).
    """
    from vqlab.cli.data_tables import check_summary, check_table
    from vqlab.cli.progress import counting
    from vqlab.cli.terminal import out
    from vqlab.data import areas_of, check_dataset, find_layout, find_root

    settings = _settings(root or data, category, good, bad, roi, ignore)
    with counting() as on_progress:
        folder, _ = find_root(settings, partial(on_progress, GENERATING))
        layout = find_layout(settings)
        root_or_layout = layout if good is not None else folder
        names = None if settings.categories == "all" else settings.categories
        areas = areas_of(settings, names or sorted(layout.folders), layout.folders)
        progress = partial(on_progress, "checking images")
        report = check_dataset(root_or_layout, names, progress, bits, areas)
    check_table(report)
    out.print(check_summary(report))
    if report.errors or (strict and report.warnings):
        raise typer.Exit(1)


@data_app.command(short_help="Write a contact sheet of a dataset.")
def show(
    root: Root = None,
    data: Data = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    roi: Roi = None,
    ignore: Ignore = None,
    output: Annotated[Path, _output("PNG file to write.")] = Path("results/contact_sheet.png"),
) -> None:
    """Write a contact sheet: normal images, and each defect type with outlined masks. Areas that
    are not inspected (--roi, --ignore) are pale."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import areas_of, contact_sheet, find_layout, find_root

    settings = _settings(root or data, category, good, bad, roi, ignore)
    with counting() as on_progress:
        find_root(settings, partial(on_progress, GENERATING))
    names = None if settings.categories == "all" else settings.categories
    layout = find_layout(settings)
    areas = areas_of(settings, names or sorted(layout.folders), layout.folders)
    contact_sheet(layout, names, output, areas)
    out.print(f"Contact sheet: {output}")


@data_app.command(short_help="Write the validation images and masks.")
def validation(
    root: Root = None,
    data: Data = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    output: Annotated[Path, _output("Folder to write.")] = Path("results/validation"),
    source: Annotated[
        str, typer.Option(help="`drawn` or `test`; see data.validation.source.")
    ] = "drawn",
    seed: Annotated[int, typer.Option(help="Random seed; see data.seed.")] = 0,
    roi: Roi = None,
    ignore: Ignore = None,
) -> None:
    """Write the validation images and masks, and a contact sheet of them. Synthetic anomalies are
    drawn inside the inspected area (--roi, --ignore)."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import load_dataset, write_image_set, write_png
    from vqlab.text import folder_name

    all_settings = _settings(
        root or data, category, good, bad, roi, ignore, seed=seed, validation={"source": source}
    )
    with counting() as on_progress:
        for settings in _each_category(all_settings, on_progress):
            splits = load_dataset(settings, partial(on_progress, "reading images"))
            write_image_set(splits.validation, output)
            sheet = output / f"{folder_name(splits.categories[0])}_contact_sheet.png"
            write_png(splits.validation_sheet, sheet)
            out.print(
                f"{len(splits.validation)} images ({settings.validation.described}): {output}"
            )
            out.print(f"Contact sheet: {sheet}")


@data_app.command(short_help="Check whether trivial statistics separate the test set.")
def audit(
    root: Root = None,
    data: Data = None,
    category: Category = None,
    good: Good = None,
    bad: Bad = None,
    brightness: Annotated[
        str, typer.Option(help="`keep` or `border`; see data.brightness.")
    ] = "keep",
    roi: Roi = None,
    ignore: Ignore = None,
) -> None:
    """Warn if trivial image statistics separate normal from anomalous test images. Areas that are
    not inspected (--roi, --ignore) affect only the file size."""
    from vqlab.cli.data_tables import audit_table
    from vqlab.cli.progress import counting
    from vqlab.cli.terminal import marked, out
    from vqlab.data import STATISTICS, load_dataset
    from vqlab.data import audit as audit_splits

    rows: list[CategoryAudit] = []
    all_settings = _settings(root or data, category, good, bad, roi, ignore, brightness=brightness)
    with counting() as on_progress:
        for settings in _each_category(all_settings, on_progress):
            splits = load_dataset(settings, partial(on_progress, "reading images"))
            rows += audit_splits(splits).values()
    audit_table(rows, STATISTICS)
    if not any(row.warnings for row in rows):
        out.print(marked("No single statistic separates a test set", "bold green"))


def _settings(
    root: Path | None,
    category: str | None,
    good: Path | None,
    bad: Path | None,
    roi: str | None,
    ignore: str | None,
    **more: object,
) -> DataSettings:
    """Return the data settings of the command line; default: all categories."""
    from vqlab.config import validate
    from vqlab.data import DataSettings
    from vqlab.recipes import Folders

    folders = Folders(root, good, bad)
    name = category or folders.category or "all"
    tree = {"categories": name if name == "all" else [name], **more}
    tree |= {"roi": _area(roi), "ignore": _area(ignore)}
    return validate(DataSettings, folders.over({"data": tree})["data"], "data.")


def _area(text: str | None) -> object:
    """Return the value of `data.roi` or `data.ignore`: a path, or `{category: path, ...}`."""
    from vqlab.config import parse_overrides

    return parse_overrides([f"area={text}"])["area"] if text and text.startswith("{") else text


def _each_category(settings: DataSettings, on_progress: OnProgress) -> Iterator[DataSettings]:
    """Yield the settings of one category at a time, to limit memory."""
    from vqlab.data import choose_categories, find_root

    find_root(settings, partial(on_progress, GENERATING))
    for name in choose_categories(settings):
        yield settings.model_copy(update={"categories": (name,)})


@data_app.command(short_help="Generate the built-in synthetic set.")
def generate(
    output: Annotated[Path, _output("Folder to write.")] = Path("data/synthetic"),
    category: Category = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Generate the built-in synthetic set (done automatically if there is no other data)."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import make_synthetic

    names = [category] if category and category != "all" else None
    with counting() as on_progress:
        folder = make_synthetic(output, names, seed, partial(on_progress, GENERATING))
    out.print(f"Synthetic set: {folder}")


data_app.command(name="make", hidden=True)(generate)  # former name


@data_app.command(name="list")
def list_categories(data: Data = None) -> None:
    """List the categories of a dataset."""
    from vqlab.cli.progress import counting, out
    from vqlab.data import DataSettings, categories_in, find_root

    with counting() as on_progress:
        settings = DataSettings(root=data, categories="all")
        folder, source = find_root(settings, partial(on_progress, GENERATING))
    out.print(f"{source} at {folder}:")
    for name in categories_in(folder):
        out.print(f"  {name}")
