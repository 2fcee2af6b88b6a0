"""Columns with a rank: those that do not fit the terminal are left out, nothing is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from vqlab.cli import fit_width
from vqlab.cli.fit_width import PROTECTED, FittedTable, Row

_BORDER = 3
"""Characters that a column takes besides its text."""
_LONG = 18
"""Characters from which on a word may break at its underscores."""


@dataclass(frozen=True)
class Column:
    """A column of plain texts."""

    header: str
    cells: Sequence[str]
    rank: int = 0
    """0: always shown; otherwise a lower one is shown first where there is room."""
    number: bool = False
    """Aligned to the right."""
    wraps: bool = False
    """Its cells are words that may stand on several lines."""

    @property
    def least(self) -> int:
        """The width below which a word or a number would be broken."""
        pieces = [piece for cell in self.cells for piece in _pieces(cell)]
        texts = pieces if self.wraps else self.cells
        return max(map(cell_len, [*self.header.split(), *texts]), default=1)


def fit(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns of rank 0 and, by rank, those others that fit into `width` characters."""
    room = width - 1 - sum(column.least + _BORDER for column in columns if not column.rank)
    chosen = [column for column in columns if not column.rank]
    for column in sorted(columns, key=lambda column: column.rank):
        if column.rank and column.least + _BORDER <= room:
            chosen.append(column)
            room -= column.least + _BORDER
    return [column for column in columns if column in chosen]


def fitted_table(
    title: str,
    columns: Sequence[Column],
    width: int,
    styles: Sequence[str] = (),
    caption: str = "",
) -> FittedTable:
    """Return the table of the columns that fit. styles: of the rows; none: plain."""
    columns = fit(columns, width)
    cells = [
        column.cells if column.wraps else [cell.replace(" ", PROTECTED) for cell in column.cells]
        for column in columns
    ]
    rows = [
        Row(row, styles[index] if styles else "")
        for index, row in enumerate(zip(*cells, strict=True))
    ]
    heads = [fit_width.Column(column.header, text=not column.number) for column in columns]
    return FittedTable(title, heads, rows, caption)


def _pieces(text: str) -> list[str]:
    """Return the parts between which a line may break: after spaces, = and +, and within long
    names after underscores; never inside a number."""
    pieces = [piece for word in text.split() for piece in re.findall(r"[^=+]*[=+]?", word)]
    short = [[p] if len(p) <= _LONG else re.findall(r"[^_]*_?", p) for p in pieces]
    return [part for parts in short for part in parts if part]
