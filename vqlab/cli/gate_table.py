"""Tables of the gates of a promotion and of the versions of a category."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from vqlab.cli.fit_width import Column, FittedTable, Row
from vqlab.metrics import metric_title

if TYPE_CHECKING:
    from vqlab.promote import Gate, VersionRecord

_STYLES = {"passed": "green", "failed": "bold red", "warning": "yellow", "not applicable": "dim"}


def gate_table(gates: Sequence[Gate]) -> FittedTable:
    """Return one row per gate: result, measured value with its interval, bound, sentence."""
    columns = [
        Column("gate", text=True),
        Column("result", text=True),
        Column("measured"),
        Column("limit"),
        Column("", text=True),
    ]
    rows = [
        Row([
            gate.name,
            Text("–" if gate.status == "not applicable" else gate.status, _STYLES[gate.status]),
            gate.measured,
            gate.required,
            gate.sentence,
        ])
        for gate in gates
    ]  # fmt: skip
    return FittedTable("gates", columns, rows, "[a, b]: 95 % interval · –: not applicable")


def history_table(category: str, versions: Sequence[VersionRecord]) -> FittedTable:
    """Return one row per version of a category."""
    columns = [
        Column("version"),
        Column("state", text=True),
        Column("run", text=True),
        Column("promoted", text=True),
        Column("by", text=True),
        Column("replaced"),
        Column("value", text=True),
        Column("gates", text=True),
        Column("reason", text=True, rank=1, unbroken=True),
    ]
    rows = [
        Row(
            [
                str(each.version),
                _state(each),
                f"{each.run} ({each.run_id[:8]})",
                _minute(each.promoted_at),
                each.promoted_by,
                "–" if each.replaced is None else str(each.replaced),
                _value(each),
                re.sub(r", \d+ not applicable$", "", each.gates),
                each.reason,
            ],
            "bold" if each.state == "champion" else "",
        )
        for each in versions
    ]
    return FittedTable(f"versions of {category}", columns, rows, "times: UTC")


def _value(version: VersionRecord) -> str:
    """Return e.g. `image AUROC 0.9812`; with the split unless it is `test`."""
    if version.value is None:
        return "–"
    split, _, name = version.metric.rpartition("/")
    title = metric_title(name) if split == "test" else version.metric
    return f"{title} {version.value:.4f}"


def _state(version: VersionRecord) -> str:
    if version.state != "rolled back":
        return version.state
    by = f" by {version.rolled_back_by}" if version.rolled_back_by else ""
    return f"rolled back to {version.rolled_back_to}{by}, {_minute(version.rolled_back_at)}"


def _minute(time: str) -> str:
    """Shorten an ISO 8601 time to minutes."""
    return time[:16].replace("T", " ")
