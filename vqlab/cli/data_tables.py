"""Tables of `vqlab data check` and `vqlab data audit`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from vqlab.cli.fit_width import Cell, Column, FittedTable, Row
from vqlab.cli.terminal import marked, out
from vqlab.text import visible

if TYPE_CHECKING:
    from vqlab.data import CategoryAudit, CheckReport


def check_table(report: CheckReport) -> None:
    """Print a row per category, then every warning and error on its own line."""
    columns = [Column("category", text=True)]
    columns += map(Column, ("train", "test normal", "test anomalous", "masks"))
    columns += (Column(name, text=True) for name in ("size", "published"))
    rows = [
        Row([visible(row.category), *map(str, (*row.counts, row.masks, row.sizes, row.published))])
        for row in report.rows
    ]
    out.print(FittedTable(f"{report.root} ({report.source})", columns, rows))
    _print_marked("warning", "yellow", report.warnings)
    _print_marked("error", "red", report.errors)


def _print_marked(word: str, style: str, texts: Iterable[str]) -> None:
    for text in texts:
        out.print(marked(word, style, f": {text}"))


def check_summary(report: CheckReport) -> Text:
    """Return the last line of the check: counts of errors and warnings, and the fingerprint."""
    warnings = _plural(len(report.warnings), "warning")
    if report.errors:
        suffix = f", {warnings}" if report.warnings else ""
        return marked(_plural(len(report.errors), "error"), "bold red", suffix)
    fingerprint = f". Fingerprint: {report.fingerprint}"
    if report.warnings:
        return marked(warnings, "bold yellow", fingerprint)
    return marked("No problems found", "bold green", fingerprint)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def audit_table(rows: Sequence[CategoryAudit], statistics: Mapping[str, str]) -> None:
    """Print how well each statistic (name → text) separates the test set, a row per category,
    then every warning on its own line."""
    title = "image AUROC of trivial statistics (↑ ↓: anomalous images higher, lower)"
    columns = [Column("category", text=True), *map(Column, statistics.values())]
    cells = [[_audit_cell(row, name) for name in statistics] for row in rows]
    names = [row.category + " ⚠" * bool(row.warnings) for row in rows]
    table_rows = [Row([name, *row]) for name, row in zip(names, cells, strict=True)]
    out.print(FittedTable(title, columns, table_rows))
    _print_marked("warning", "yellow", (warning for row in rows for warning in row.warnings))


def _audit_cell(row: CategoryAudit, name: str) -> Cell:
    if name not in row.aurocs:
        return "–"
    cell = f"{row.aurocs[name]:.3f} {'↑' if row.higher[name] else '↓'}"
    return Text(cell, "bold yellow") if name in row.suspicious else cell
