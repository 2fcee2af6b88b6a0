"""The terminal: everything is printed as it is, whatever letters and brackets a name has."""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from vqlab.text import visible_lines

_FITTED = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()


class Terminal(Console):
    """A console without markup: brackets are brackets, and control characters are escaped."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, soft_wrap=True, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return `text` as it can be shown; console and tables call this for each `str`."""
        return super().render_str(visible_lines(text), **settings)


def marked(word: str, style: str, rest: str = "") -> Text:
    """Return a line that begins with `word` in a style of its own."""
    return Text.assemble((visible_lines(word), style), visible_lines(rest))


out = Terminal(width=None if _FITTED else 140)
"""Where everything is printed; in a log file `COLUMNS` wide, 140 where that is not set."""
