"""Table of measured settings in a CSV file that is written atomically."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vqlab.types import UserError

Row = dict[str, str | float]
"""One setting: key, detector, settings (JSON), and metrics such as `test/aupro`."""


class Table:
    """Rows by key, backed by a CSV file; rows of other settings are preserved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        if path.exists():
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    self.rows = {row["key"]: _parse(row) for row in csv.DictReader(file)}
            except (KeyError, ValueError, AttributeError, UnicodeDecodeError, csv.Error):
                raise UserError(
                    f"{path} must be a table of measured settings; it is another file; remove it "
                    "and measure again."
                ) from None

    def add(self, row: Row) -> None:
        """Add a row and write the file atomically."""
        self.rows[str(row["key"])] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        temporary.write_text(to_csv(list(self.rows.values())), encoding="utf-8")
        os.replace(temporary, self.path)


def _parse(cells: Mapping[str, str]) -> Row:
    row: Row = {}
    for name, cell in cells.items():
        if cell:
            row[name] = float(cell) if "/" in name else cell
            if "/" in name and not math.isfinite(float(cell)):
                raise ValueError(name)
    return row


def to_csv(rows: Sequence[Row]) -> str:
    """Return rows as CSV, numbers with all digits, undefined values as empty cells."""
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    table = csv.DictWriter(text, list(columns), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
