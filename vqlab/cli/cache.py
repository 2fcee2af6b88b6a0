"""`vqlab data cache`: list and clear cached features."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from vqlab.cli import data_app

if TYPE_CHECKING:
    from rich.table import Table

    from vqlab.features import CacheFile


@data_app.command(short_help="List or delete cached features.")
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete cached features.")] = False,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="With --clear: only entries unused for AGE, e.g. 12h, 7d or 2w; without a unit: "
            "days.",
        ),
    ] = None,
) -> None:
    """List the features cached on disk, or delete them; they are extracted again when needed.

    The folder is VQLAB_CACHE, else ~/.cache/vqlab/features.
    """
    from vqlab.cli.progress import out
    from vqlab.errors import UserError
    from vqlab.features import cache_files, cache_folder, clear_cache

    if older_than is not None and not clear:
        raise UserError("--older-than must be used with --clear; add --clear.")
    if clear:
        deleted = clear_cache(0.0 if older_than is None else _days(older_than))
        out.print(f"Deleted {len(deleted)} files ({_megabytes(deleted)}) in {cache_folder()}")
        return
    files = cache_files()
    if files:
        out.print(_table(files))
    out.print(f"{len(files)} files ({_megabytes(files)}) in {cache_folder()}")


def _days(age: str) -> float:
    """Return an age in days. Raises UserError if it is neither a number nor an age."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", age):
        return float(age)
    from vqlab.tracking.run_filter import parse_age

    return parse_age(age).total_seconds() / 86_400


def _megabytes(files: list[CacheFile]) -> str:
    return f"{sum(file.size for file in files) / 1e6:.1f} MB"


def _table(files: list[CacheFile]) -> Table:
    from rich.table import Table

    table = Table("backbone", "category", "images", "MB", "last used")
    for file in files:
        name = file.backbone or f"incomplete: {file.path.name}"
        count = str(file.images) if file.backbone else ""
        last_used = f"{datetime.fromtimestamp(file.used):%Y-%m-%d %H:%M}"
        table.add_row(name, file.category, count, f"{file.size / 1e6:.1f}", last_used)
    return table
