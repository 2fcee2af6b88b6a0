"""Tables that fit the terminal: nothing is cut, and no number is broken over two lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from vqlab.text import visible_lines

Cell = str | Text
"""A str is shown as it is, without markup."""
PROTECTED = "\u00a0"
"""A space at which no line is broken."""
_LEAST = 10
"""Width that each text has at least, before a table is split in two."""
_WORD = 11
"""Words of a header are broken where they are longer."""
_BREAKS = re.compile(r"(?<=/)|(?<=[_,+=·:])(?=\D)|(?<=-)(?=[A-Za-z])")
"""Where a word that is too long is broken: not within a number."""


@dataclass(frozen=True)
class Column:
    """One column; `text` is aligned left and may be broken over lines, a figure never is."""

    header: str
    text: bool = False


@dataclass(frozen=True)
class Row:
    """One row. Without cells beyond the first it is a heading."""

    cells: Sequence[Cell]
    style: str = ""
    last: bool = False
    """A line is drawn below it."""

    def __post_init__(self) -> None:
        shown = [visible_lines(cell) if isinstance(cell, str) else cell for cell in self.cells]
        object.__setattr__(self, "cells", shown)


@dataclass(frozen=True)
class FittedTable:
    """A table that adapts to the width it is printed at.

    Where it is too wide, headers are broken at spaces, then texts; figures that still find no place
    follow in a second table below, which repeats the first column.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    enough: int = 16
    """Width of a text that counts as fitting, however long it is."""

    def fits(self, width: int) -> bool:
        """Whether all figures fit beside texts of enough width, headers broken at spaces."""
        pairs = zip(self._narrow(), self.columns, strict=True)
        sizes = [min(size, self.enough) if column.text else size for size, column in pairs]
        return _total(sizes) <= width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(no_wrap=False, overflow="fold")
        parts = _split(self, options.max_width)
        for number, part in enumerate(parts):
            title = self.title if number == 0 else ""
            caption = self.caption if number == len(parts) - 1 else ""
            yield from console.render(_drawn(part, options.max_width, title, caption), options)

    def _natural(self) -> list[int]:
        """The width of every column with nothing broken."""
        return [
            max(_width(column.header), narrow)
            for column, narrow in zip(self.columns, self._narrow(), strict=True)
        ]

    def _narrow(self) -> list[int]:
        """The width of every column with nothing but its header broken."""
        return [
            max(
                *(_width(row.cells[place]) for row in self.rows if place < len(row.cells)),
                *(min(cell_len(word), _WORD) for word in column.header.split(" ")),
            )
            for place, column in enumerate(self.columns)
        ]


@dataclass(frozen=True)
class Widest:
    """The first of several tables that fits where it is printed; the last where none does."""

    forms: Sequence[FittedTable]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        form = next((form for form in self.forms if form.fits(width)), self.forms[-1])
        yield from form.__rich_console__(console, options)


def _split(table: FittedTable, width: int) -> list[FittedTable]:
    """The table, or where its figures do not fit beside its texts, several with some of them."""
    narrow = table._narrow()
    needed = [
        min(size, _LEAST) if column.text else size
        for size, column in zip(narrow, table.columns, strict=True)
    ]
    places, parts = [0], []
    for place in range(1, len(needed)):
        if len(places) > 1 and _total([needed[i] for i in [*places, place]]) > width:
            parts.append(places)
            places = [0]
        places.append(place)
    return [_part(table, chosen) for chosen in [*parts, places]]


def _part(table: FittedTable, places: Sequence[int]) -> FittedTable:
    rows = [
        Row([row.cells[i] for i in places if i < len(row.cells)], row.style, row.last)
        for row in table.rows
    ]
    return FittedTable(table.title, [table.columns[i] for i in places], rows, table.caption)


def _drawn(part: FittedTable, width: int, title: str, caption: str) -> Table:
    """The part as rich's table, with texts and headers broken as far as the width asks for."""
    widths = part._natural()
    if _total(widths) > width:
        widths = _shared(part.columns, part._narrow(), width)
    table = Table(
        title=title or None, title_justify="left", caption=caption or None, caption_justify="left"
    )
    for column, size in zip(part.columns, widths, strict=True):
        header = _text(column.header, size)
        table.add_column(header, justify="left" if column.text else "right", min_width=size)
    for row in part.rows:
        pairs = zip(row.cells, widths, strict=False)
        cells = [_text(c, w) if isinstance(c, str) else c for c, w in pairs]
        table.add_row(*cells, style=row.style or None, end_section=row.last)
    return table


def _text(text: str, width: int) -> Text:
    """A text as it is printed: broken first, then with plain spaces for protected ones."""
    return Text(_broken(text, width).replace(PROTECTED, " "))


def _shared(columns: Sequence[Column], narrow: Sequence[int], width: int) -> list[int]:
    """Widths in which texts share what the figures leave; a short one takes what it needs."""
    texts = sorted((i for i, column in enumerate(columns) if column.text), key=lambda i: narrow[i])
    widths = list(narrow)
    left = width - _total([n for n, column in zip(narrow, columns, strict=True) if not column.text])
    left -= 3 * len(texts)
    for count, place in zip(range(len(texts), 0, -1), texts, strict=True):
        widths[place] = max(1, min(narrow[place], left // count))
        left -= widths[place]
    return widths


def _total(widths: Sequence[int]) -> int:
    """The width of a table: a cell has a space at both sides, and a line follows it."""
    return sum(widths) + 3 * len(widths) + 1


def _width(cell: Cell) -> int:
    lines = (cell.plain if isinstance(cell, Text) else cell).split("\n")
    return max(map(cell_len, lines))


def _broken(text: str, width: int) -> str:
    """`text` on lines of at most `width` columns, broken at spaces, and only a longer word within:
    behind a separator where there is one."""
    lines: list[str] = []
    for line in text.split("\n"):
        lines.append("")
        for word in line.split(" "):
            joined = f"{lines[-1]} {word}" if lines[-1] else word
            if cell_len(joined) <= width:
                lines[-1] = joined
                continue
            if lines[-1]:
                lines.append("")
            for piece in _pieces(word, width):
                if cell_len(lines[-1] + piece) > width and lines[-1]:
                    lines.append("")
                lines[-1] += piece
    return "\n".join(lines)


def _pieces(word: str, width: int) -> list[str]:
    """A word in pieces that may stand on lines of their own; each at most `width` wide."""
    if cell_len(word) <= width:
        return [word]
    pieces = []
    for piece in _BREAKS.split(word):
        pieces += [piece[i : i + width] for i in range(0, len(piece), width)]
    return pieces
