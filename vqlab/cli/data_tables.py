"""Tables of images: the check and the audit of a data set."""

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
    """The check's rows, then every warning and error on a line of its own."""
    figures = map(Column, ("train", "test normal", "test anomalous", "masks"))
    texts = (Column(name, text=True) for name in ("size", "published"))
    rows = []
    for row in report.rows:
        counts = (str(count) for count in row.counts)
        rows.append(Row([visible(row.category), *counts, str(row.masks), row.sizes, row.published]))
    columns = [Column("category", text=True), *figures, *texts]
    out.print(FittedTable(f"{report.root} ({report.source})", columns, rows))
    for warning in report.warnings:
        out.print(marked("warning", "yellow", f": {warning}"))
    for error in report.errors:
        out.print(marked("error", "red", f": {error}"))


def check_summary(report: CheckReport) -> Text:
    """The check's last line: how many errors and warnings there are, and the fingerprint."""
    warnings = _counted(len(report.warnings), "warning")
    if report.errors:
        rest = f", {warnings}" if report.warnings else ""
        return marked(_counted(len(report.errors), "error"), "bold red", rest)
    rest = f"; fingerprint {report.fingerprint}"
    if report.warnings:
        return marked(warnings, "bold yellow", rest)
    return marked("No problems found", "bold green", rest)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def audit_table(rows: Sequence[CategoryAudit], statistics: Mapping[str, str]) -> None:
    """How well each statistic (name → words) separates the test set, a row per category, then
    every warning on a line of its own."""
    title = "image AUROC of trivial statistics (↑ ↓: anomalous images have higher, lower values)"
    columns = [Column("category", text=True), *map(Column, statistics.values())]
    shown = []
    for row in rows:
        cells = [_audit_cell(row, name) for name in statistics]
        shown.append(Row([row.category + (" ⚠" if row.warnings else ""), *cells]))
    out.print(FittedTable(title, columns, shown))
    for row in rows:
        for warning in row.warnings:
            out.print(marked("warning", "yellow", f": {warning}"))


def _audit_cell(row: CategoryAudit, name: str) -> Cell:
    if name not in row.aurocs:
        return "–"
    cell = f"{row.aurocs[name]:.3f} {'↑' if row.higher[name] else '↓'}"
    return Text(cell, "bold yellow") if name in row.warned else cell
