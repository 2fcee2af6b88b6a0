"""Tables of `vqlab data check` and `vqlab data audit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from vqlab.cli.fit_width import Cell, Column, FittedTable, Row
from vqlab.cli.terminal import marked, out
from vqlab.text import visible

if TYPE_CHECKING:
    from vqlab.data import CategoryAudit, CheckReport


def check_table(report: CheckReport) -> None:
    """Print a row per category, then every warning and error on its own line."""
    counts = map(Column, ("train", "test normal", "test anomalous", "masks"))
    texts = (Column(name, text=True) for name in ("size", "published"))
    rows = []
    for row in report.rows:
        cells = map(str, (*row.counts, row.masks, row.sizes, row.published))
        rows.append(Row([visible(row.category), *cells]))
    columns = [Column("category", text=True), *counts, *texts]
    out.print(FittedTable(f"{report.root} ({report.source})", columns, rows))
    for warning in report.warnings:
        out.print(marked("warning", "yellow", f": {warning}"))
    for error in report.errors:
        out.print(marked("error", "red", f": {error}"))


def check_summary(report: CheckReport) -> Text:
    """Return the last line of the check: counts of errors and warnings, and the fingerprint."""
    warnings = _counted(len(report.warnings), "warning")
    if report.errors:
        rest = f", {warnings}" if report.warnings else ""
        return marked(_counted(len(report.errors), "error"), "bold red", rest)
    rest = f". Fingerprint: {report.fingerprint}"
    if report.warnings:
        return marked(warnings, "bold yellow", rest)
    return marked("No problems found", "bold green", rest)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def audit_table(rows: Sequence[CategoryAudit], statistics: Mapping[str, str]) -> None:
    """Print how well each statistic (name → text) separates the test set, a row per category,
    then every warning on its own line."""
    title = "image AUROC of trivial statistics (↑ ↓: anomalous images higher, lower)"
    columns = [Column("category", text=True), *map(Column, statistics.values())]
    table_rows = []
    for row in rows:
        cells = [_audit_cell(row, name) for name in statistics]
        table_rows.append(Row([row.category + (" ⚠" if row.warnings else ""), *cells]))
    out.print(FittedTable(title, columns, table_rows))
    for row in rows:
        for warning in row.warnings:
            out.print(marked("warning", "yellow", f": {warning}"))


def _audit_cell(row: CategoryAudit, name: str) -> Cell:
    if name not in row.aurocs:
        return "–"
    cell = f"{row.aurocs[name]:.3f} {'↑' if row.higher[name] else '↓'}"
    return Text(cell, "bold yellow") if name in row.suspicious else cell
