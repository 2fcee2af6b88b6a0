"""Print rows as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import typer

from vqlab.errors import UserError


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_csv: bool) -> None:
    """Print rows as CSV with these columns, else as JSON."""
    if not as_csv:
        typer.echo(json.dumps(rows, indent=2))
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    typer.echo(text.getvalue(), nl=False)


def require_one_format(as_json: bool, as_csv: bool) -> None:
    """Raise UserError if both `--json` and `--csv` were given."""
    if as_json and as_csv:
        raise UserError("--json and --csv are mutually exclusive; use one of them.")
