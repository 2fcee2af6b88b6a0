"""Tables that fit the terminal: columns that do not fit are left out, nothing is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_BORDER = 3
"""Characters that a column takes besides its text."""
_NARROWEST = 5
_LONG = 18
"""Characters from which on a word may break at its underscores."""


@dataclass(frozen=True)
class Column:
    """A column of plain texts."""

    header: str
    """Its words stand on lines of their own."""
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

    @property
    def most(self) -> int:
        """The width at which nothing wraps."""
        return max(self.least, *map(cell_len, self.cells), 1)


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
    title: str, columns: Sequence[Column], width: int, styles: Sequence[str] = ()
) -> Table:
    """Return the table of the columns that fit. styles: of the rows; none: plain."""
    columns = fit(columns, width)
    room = width - 1 - sum(column.least + _BORDER for column in columns)
    table = Table(title=title, title_justify="left")
    wrapped: list[list[str]] = []
    for column in columns:
        size = column.least
        if column.wraps:  # what is left over, or missing where not even rank 0 fits
            size = max(_NARROWEST, min(column.most, size + room)) if room else size
            room -= size - column.least
        cells = [_wrapped(cell, size) if column.wraps else cell for cell in column.cells]
        wrapped.append(cells)
        header = Text(column.header if cell_len(column.header) <= size else _lines(column.header))
        table.add_column(
            header, justify="right" if column.number else "left", width=size, overflow="fold"
        )
    for index, row in enumerate(zip(*wrapped, strict=True)):
        table.add_row(*map(Text, row), style=styles[index] if styles else "")
    return table


def _lines(words: str) -> str:
    return words.replace(" ", "\n")


def _pieces(text: str) -> list[str]:
    """Return the parts between which a line may break: after spaces, = and +, and within long
    names after underscores; never inside a number."""
    pieces = [piece for word in text.split() for piece in re.findall(r"[^=+]*[=+]?", word)]
    short = [[p] if len(p) <= _LONG else re.findall(r"[^_]*_?", p) for p in pieces]
    return [part for parts in short for part in parts if part]


def _wrapped(text: str, width: int) -> str:
    """Break `text` into lines of `width` between words; a word that is longer within itself."""
    lines = [""]
    for word in text.split():
        pieces = [word] if cell_len(word) <= width else _pieces(word)
        for index, piece in enumerate(pieces):
            joined = lines[-1] + (" " if lines[-1] and not index else "") + piece
            if lines[-1] and cell_len(joined) > width:
                lines.append(piece)
            else:
                lines[-1] = joined
    return "\n".join(lines)
