"""Texts and live table of `vqlab watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from vqlab.cli.predictions import COLOURS
from vqlab.text import shorten, visible

if TYPE_CHECKING:
    from vqlab.predict import PredictedFile
    from vqlab.watch import Status

_VERDICTS = ("pass", "review", "reject", "unreadable")
_NAME_WIDTH = 40


def status_table(title: str, status: Status) -> Table:
    """Return the latest parts, with counts, drift test and problems below them."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.add_column("file", no_wrap=True)
    for header in ("score", "verdict", "p-value"):
        table.add_column(header, justify="right")
    for row in status.recent:
        score = "–" if row.score is None else f"{row.score:.4g}"
        p_value = "–" if row.p_value is None else f"{row.p_value:.3g}"
        name = shorten(visible(row.path.name), _NAME_WIDTH)
        table.add_row(Text(name), score, Text(row.verdict, COLOURS[row.verdict]), p_value)
    table.caption = Text("\n").join(map(Text, _lines(status)))
    return table


def _lines(status: Status) -> list[str]:
    lines = [summary_text(status)]
    if status.waiting:
        lines.append(f"{status.waiting} files waiting")
    if status.undelivered:
        lines.append(f"{status.undelivered} webhook events not delivered")
    if status.noted is not None:
        lines.append(f"note: {visible(status.noted.path.name)}: {status.noted.note}")
    if status.problem:
        lines.append(visible(status.problem))
    return lines


def summary_text(status: Status) -> str:
    """Return the counts by verdict and the state of the drift test on one line."""
    counts = [f"{status.counts[name]} {name}" for name in _VERDICTS if status.counts[name]]
    return f"{', '.join(counts) or 'no parts'}; drift: {_drift_text(status)}"


def _drift_text(status: Status) -> str:
    if status.alarm is not None:
        return f"ALARM at part {status.alarm['part']}"
    stream, wealth = max(status.wealths.items(), key=lambda item: item[1])
    limit = f"{1 / status.level:.4g}"
    return f"no alarm (wealth {wealth:.3g} by {stream} of {limit} in {status.tested} parts)"


def part_text(row: PredictedFile) -> str:
    """Return a part on one line, for a log file."""
    reason = f" ({row.reason})" if row.reason else ""
    score = "" if row.score is None else f", score {row.score:.4g}"
    note = f" (note: {row.note})" if row.note else ""
    return f"{visible(row.path)}: {row.verdict}{reason}{score}{note}"


def alarm_text(alarm: dict[str, Any]) -> Text:
    """Return the alarm with its level."""
    text = f" {alarm['text']} A false alarm has probability ≤ {alarm['level']:g} (wealth "
    return Text.assemble(
        ("drift alarm:", "bold red"), visible(text), f"{alarm['wealth']:.3g}). "
        "After fixing the cause, or retraining, start a new test with --new-test."
    )  # fmt: skip
