"""Table of the gates of a promotion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from vqlab.cli.fit_width import Column, FittedTable, Row

if TYPE_CHECKING:
    from vqlab.promote import Gate

_STYLES = {"passed": "green", "failed": "bold red", "warning": "yellow", "not applicable": "dim"}


def gate_table(gates: Sequence[Gate]) -> FittedTable:
    """Return one row per gate: result, measured value with its interval, limit, sentence."""
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
