"""`vqlab data cache`: list and clear cached features."""

from __future__ import annotations

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
        float | None,
        typer.Option(min=0, metavar="DAYS", help="With --clear: only entries unused for DAYS."),
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
        deleted = clear_cache(older_than or 0.0)
        out.print(f"Deleted {len(deleted)} files ({_megabytes(deleted)}) in {cache_folder()}")
        return
    files = cache_files()
    if files:
        out.print(_table(files))
    out.print(f"{len(files)} files ({_megabytes(files)}) in {cache_folder()}")


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
