"""Names from file systems and users as text that any UTF-8 output can hold."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

JOINERS = "\u200c\u200d"  # invisible, but Persian, Hindi and emoji are spelled with them
ELLIPSIS = "…"


def visible(text: str | Path) -> str:
    r"""Return `text` in one line of valid UTF-8 in which every character can be seen.

    A byte that is not UTF-8 becomes `\xfc`, a control character `\n` or `\x1b`, a mark that
    reorders letters `\u202e`. Everything else stays as it is. Two names may look alike
    afterwards: print the result, but never use it as a key.
    """
    return "".join(map(_visible_character, os.fspath(text)))


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with an ellipsis for its middle if it is longer.

    East Asian wide characters take two columns and combining marks none. Of the columns left,
    the end gets the odd one: names in a folder often differ at the end.
    """
    if columns(text) <= width:
        return text
    room = max(width - columns(ELLIPSIS), 0)
    start = _start(text, room // 2)
    end = _start(text[::-1], room - columns(start))[::-1]
    return start + ELLIPSIS + end


def columns(text: str) -> int:
    """Return how many columns `text` takes in a terminal or in a monospaced font."""
    return sum(map(_width, text))


def _visible_character(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # an undecodable byte, as `os.fsdecode` gives it
        return f"\\x{ord(character) - 0xDC00:02x}"
    category = unicodedata.category(character)
    if character not in JOINERS and (category[0] == "C" or category in ("Zl", "Zp")):
        return character.encode("unicode_escape").decode("ascii")
    return character


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _start(text: str, width: int) -> str:
    """Return the longest start of `text` that fits into `width` columns."""
    used = 0
    for position, character in enumerate(text):
        used += _width(character)
        if used > width:
            return text[:position]
    return text
