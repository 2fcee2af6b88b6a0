"""Rows of measured settings, kept in a CSV that is whole at any time."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqlab.types import UserError

Row = dict[str, str | float]
"""One setting: key, detector, settings (JSON), and figures such as `test/aupro`."""


class Kept:
    """Rows measured so far, in a CSV that is whole at any time; rows of other settings stay."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        if path.exists():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    self.rows = {row["key"]: _read(row) for row in csv.DictReader(file)}
            except (KeyError, ValueError, AttributeError, UnicodeDecodeError, csv.Error):
                raise UserError(
                    f"{path} is not a table of measured settings; remove it and measure again."
                ) from None

    def add(self, row: Row) -> None:
        """Keep a row: written beside, then renamed."""
        self.rows[str(row["key"])] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        beside.write_text(table_text(list(self.rows.values())), encoding="utf-8")
        os.replace(beside, self.path)


def _read(cells: Mapping[str, str]) -> Row:
    row: Row = {}
    for name, cell in cells.items():
        if cell:
            row[name] = float(cell) if "/" in name else cell
            if "/" in name and not math.isfinite(float(cell)):
                raise ValueError(name)
    return row


def table_text(rows: Sequence[Row]) -> str:
    """Rows as CSV, every figure with all its digits; what is undefined is an empty cell."""
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
