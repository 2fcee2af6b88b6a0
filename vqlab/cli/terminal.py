"""Console output without markup."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from vqlab.text import visible_lines

_FITTED = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()


class Terminal(Console):
    """Console that prints brackets literally and escapes control characters."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return `text` with control characters escaped; called for every printed `str`."""
        return super().render_str(visible_lines(text), **settings)


def marked(word: str, style: str, text: str = "") -> Text:
    """Return a styled `word` followed by a plain text."""
    return Text.assemble((visible_lines(word), style), visible_lines(text))


out = Terminal(width=None if _FITTED else 140)
"""Standard output; width in a log file: `COLUMNS`, default 140."""


def print_notes(notes: Iterable[str]) -> None:
    """Print notes, such as undefined metrics."""
    for note in notes:
        out.print(f"note: {note}", soft_wrap=not out.is_terminal)
