"""Tables that fit the terminal: nothing is cut, and no number is broken over two lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from vqlab.text import visible_lines

Cell = str | Text
"""Content of a cell; a str is printed literally, without markup."""
PROTECTED = "\u00a0"
"""A space at which no line is broken."""
_MIN_TEXT = 10
"""Minimum width of a text column before a table is split in two."""
_MAX_WORD = 11
"""Longer words of a header may be broken."""
_BREAKS = re.compile(r"(?<=/)|(?<=[_,+=·:])(?=\D)|(?<=-)(?=[A-Za-z])")
"""Positions at which a word that is too long is broken; never within a number."""


@dataclass(frozen=True)
class Column:
    """A column: texts are aligned left and may be broken over lines, numbers are not."""

    header: str
    text: bool = False
    rank: int = 0
    """0: always shown. Others are shown if they fit, lowest rank first."""
    unbroken: bool = False
    """Whether a ranked text fits only if no cell has to be broken."""


@dataclass(frozen=True)
class Row:
    """A row. With a single cell it is a heading."""

    cells: Sequence[Cell]
    style: str = ""
    last: bool = False
    """Whether a line separates it from the next row."""

    def __post_init__(self) -> None:
        cells = [visible_lines(cell) if isinstance(cell, str) else cell for cell in self.cells]
        object.__setattr__(self, "cells", cells)


@dataclass(frozen=True)
class FittedTable:
    """A table that adapts to the width at which it is printed.

    If it is too wide, ranked columns are dropped, then headers are broken at spaces, then texts.
    Numbers that still do not fit follow in a second table, which repeats the first column.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""

    def fits(self, width: int) -> bool:
        """Return whether all numbers fit beside texts of 16 columns, headers broken at spaces."""
        return _total(self._min_widths(16)) <= width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        options = options.update(no_wrap=False, overflow="fold")
        parts = _split(_drop_ranked(self, options.max_width), options.max_width)
        for number, part in enumerate(parts):
            title = self.title if number == 0 else ""
            caption = self.caption if number == len(parts) - 1 else ""
            part = replace(part, title=title, caption=caption)
            yield from console.render(_rich_table(part, options.max_width), options)

    def _unbroken_widths(self) -> list[int]:
        """Return the width of each column if only its header is broken."""
        return [
            max(
                [
                    *(_width(row.cells[index]) for row in self.rows if index < len(row.cells)),
                    *(min(cell_len(word), _MAX_WORD) for word in column.header.split(" ")),
                ]
            )
            for index, column in enumerate(self.columns)
        ]

    def _min_widths(self, text_width: int) -> list[int]:
        """Return the width of each column, with texts broken to `text_width`."""
        return [
            min(size, text_width) if column.text else size
            for size, column in zip(self._unbroken_widths(), self.columns, strict=True)
        ]


def from_columns(
    title: str,
    columns: Sequence[tuple[Column, Sequence[Cell]]],
    styles: Sequence[str] = (),
    caption: str = "",
) -> FittedTable:
    """Return the table of columns and their cells. styles: of the rows; default: none."""
    cells = zip(*(cells for _, cells in columns), strict=True)
    rows = [Row(row, style) for row, style in zip_longest(cells, styles, fillvalue="")]
    return FittedTable(title, [column for column, _ in columns], rows, caption)


@dataclass(frozen=True)
class Widest:
    """The first of several tables that fits the terminal; the last one if none does."""

    forms: Sequence[FittedTable]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        form = next((form for form in self.forms if form.fits(width)), self.forms[-1])
        yield from form.__rich_console__(console, options)


def _drop_ranked(table: FittedTable, width: int) -> FittedTable:
    """Return the table with the ranked columns that fit beside the others."""
    sizes = table._unbroken_widths()
    for index, column in enumerate(table.columns):
        if column.text and not column.unbroken:
            cells = [str(row.cells[index]) for row in table.rows if index < len(row.cells)]
            words = [word for cell in cells for word in cell.split()]
            pieces = [piece for word in words for piece in _BREAKS.split(word)]
            sizes[index] = min(sizes[index], max(map(cell_len, [*pieces, ""])))
    chosen: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: table.columns[index].rank):
        if not table.columns[index].rank or _total([sizes[i] for i in [*chosen, index]]) <= width:
            chosen.append(index)
    return _select(table, sorted(chosen))


def _split(table: FittedTable, width: int) -> list[FittedTable]:
    """Return the table, or several with a part of the columns each if it is too wide."""
    sizes = table._min_widths(_MIN_TEXT)
    parts = [[0]]
    for index in range(1, len(sizes)):
        if len(parts[-1]) > 1 and _total([sizes[i] for i in [*parts[-1], index]]) > width:
            parts.append([0])
        parts[-1].append(index)
    return [_select(table, indices) for indices in parts]


def _select(table: FittedTable, indices: Sequence[int]) -> FittedTable:
    rows = [
        replace(row, cells=[row.cells[i] for i in indices if i < len(row.cells)])
        for row in table.rows
    ]
    return replace(table, columns=[table.columns[i] for i in indices], rows=rows)


def _rich_table(table: FittedTable, width: int) -> Table:
    """Return rich's table, with texts and headers broken to fit."""
    unbroken = table._unbroken_widths()
    headers = [_width(column.header) for column in table.columns]
    widths = [max(pair) for pair in zip(headers, unbroken, strict=True)]
    if _total(widths) > width:
        widths = _distribute(table.columns, unbroken, width)
    result = Table(
        title=table.title or None, title_justify="left",
        caption=table.caption or None, caption_justify="left",
    )  # fmt: skip
    for column, size in zip(table.columns, widths, strict=True):
        header = _break_text(column.header, size)
        result.add_column(header, justify="left" if column.text else "right", min_width=size)
    for row in table.rows:
        cells_and_widths = zip(row.cells, widths, strict=False)
        cells = [_break_text(c, size) if isinstance(c, str) else c for c, size in cells_and_widths]
        result.add_row(*cells, style=row.style or None, end_section=row.last)
    return result


def _distribute(columns: Sequence[Column], unbroken: Sequence[int], width: int) -> list[int]:
    """Return widths in which texts share the space that numbers leave, short ones first."""
    texts = sorted((i for i, c in enumerate(columns) if c.text), key=lambda i: unbroken[i])
    numbers = [size for size, column in zip(unbroken, columns, strict=True) if not column.text]
    widths = list(unbroken)
    available = width - _total(numbers) - 3 * len(texts)
    for count, index in zip(range(len(texts), 0, -1), texts, strict=True):
        widths[index] = max(1, min(unbroken[index], available // count))
        available -= widths[index]
    return widths


def _total(widths: Sequence[int]) -> int:
    """Return the width of a table: a cell has a space on both sides and a line after it."""
    return sum(widths) + 3 * len(widths) + 1


def _width(cell: Cell) -> int:
    return max(map(cell_len, str(cell).split("\n")))


def _break_text(text: str, width: int) -> Text:
    """Break a text into lines of at most `width` columns: at spaces, and longer words after a
    separator if possible."""
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
    return Text("\n".join(lines).replace(PROTECTED, " "))


def _pieces(word: str, width: int) -> list[str]:
    """Return the parts of a word that may be on separate lines, each at most `width` wide."""
    if cell_len(word) <= width:
        return [word]
    pieces = _BREAKS.split(word)
    return [piece[i : i + width] for piece in pieces for i in range(0, len(piece), width)]
