"""Tables of `data check` and `data audit` fit the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from table_texts import LONG, NAMES, WIDTHS, assert_complete

from vqlab.cli import data_tables
from vqlab.data import STATISTICS, CategoryAudit, CheckReport
from vqlab.data.checks.report import CheckRow
from vqlab.data.datasets import Counts


@WIDTHS
def test_check_and_audit_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=width, soft_wrap=True, highlight=False)
    monkeypatch.setattr(data_tables, "out", console)
    row = CheckRow(LONG, Counts(391, 40, 70), 70, "640x480 to 1024x1024", "has 391 / 40 / 71", "")
    with console.capture() as capture:
        data_tables.check_table(CheckReport(Path("MVTec"), "MVTec AD layout", [row]))
    words = ["391", "test anomalous", "640x480 to 1024x1024", "has 391 / 40 / 71", LONG]
    assert_complete(capture.get().splitlines(), width, words)
    aurocs = {name: 0.9123 for name in STATISTICS}
    rows = [
        CategoryAudit(name, 9, 9, aurocs, dict.fromkeys(STATISTICS, True), "keep") for name in NAMES
    ]
    with console.capture() as capture:
        data_tables.audit_table(rows, STATISTICS)
    lines = capture.get().splitlines()
    table = [line for line in lines if not line.startswith("warning")]
    assert_complete(table, width, [*NAMES, *STATISTICS.values()])
    assert "\n".join(table).count("0.912 ↑") == len(NAMES) * len(STATISTICS)
