"""Print tables at several widths and check that nothing is truncated."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from vqlab.evaluation import CalibrationScores, Thresholds
from vqlab.metrics import headlines

LONG = "hazelnut_with_a_long_name_of_a_product_line"
NAMES = [
    "bottle", "cable", "capsule", "carpet", "grid", LONG, "leather", "metal_nut", "pill", "screw",
    "tile", "toothbrush", "transistor", "wood", "zipper",
]  # fmt: skip
CHOSEN = Thresholds(
    4.33297, 1.234, (), "conformal", 0.05, CalibrationScores.of(np.arange(19, dtype=float))
)
HEADLINES = [n for n in headlines() if not n.endswith("review_rate") and n != "spro_005"]
"""Metrics of a model with two verdicts."""
WIDTHS = pytest.mark.parametrize("width", [80, 120, 200])


def lines_of(table: Any, width: int) -> list[str]:
    """Return the lines of a table as the command line prints it: on a console with soft
    wrapping."""
    console = Console(width=width, soft_wrap=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def figures(lines: list[str]) -> list[str]:
    """Return all numbers with a fraction, and the remains of broken ones."""
    return re.findall(r"(?<![\w.])\d+\.\d*", "\n".join(lines))


def assert_complete(lines: list[str], width: int, words: list[str]) -> None:
    """Assert that nothing is wider than the terminal or truncated, and that all words are present,
    possibly wrapped."""
    assert max(map(cell_len, lines)) <= width
    assert "…" not in "".join(lines)
    columns: dict[int, str] = {}
    for line in lines:
        if line.startswith(("│", "┃")):
            for place, cell in enumerate(re.split("[│┃]", line)[1:-1]):
                columns[place] = columns.get(place, "") + cell.strip().replace(" ", "")
    remaining = "".join("".join(lines).split())
    for word in words:
        plain = word.replace(" ", "")
        assert any(plain in column for column in columns.values()) or plain in remaining, word
