"""Names from file systems and users as text that any UTF-8 output can hold, and as keys."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

JOINERS = "\u200c\u200d"  # invisible, but Persian, Hindi and emoji are spelled with them
ELLIPSIS = "…"
_DIGEST = 12
"""Hex digits at the end of a key that is not the text itself."""
_HAS_DIGEST = re.compile(rf"-[0-9a-f]{{{_DIGEST}}}$")
_NOT_IN_FOLDERS = r'[\x00-\x1f\x7f\ud800-\udfff<>:"/\\|?*#%]'
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([nrt]))")


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


def visible_lines(text: str) -> str:
    """Return `text` with each of its lines as `visible` gives it."""
    return "\n".join(map(visible, text.split("\n")))


def storable(text: str) -> str:
    """Return `text` with only that escaped which UTF-8 files and databases cannot hold."""
    return _NOT_STORABLE.sub(lambda match: _visible_character(match[0]), text)


def restored(text: str) -> str:
    """Return the name that `visible` gave `text` for, if no backslash was in that name."""

    def character(match: re.Match[str]) -> str:
        byte, short, long, letter = match.groups()
        if letter:
            return {"n": "\n", "r": "\r", "t": "\t"}[letter]
        number = int(byte or short or long, 16)
        return chr(number + 0xDC00 if byte and number >= 0x80 else number)

    return _ESCAPE.sub(character, text)


def unique_key(
    text: str, refused: str = r"[^\w.\- ]", length: int = 100, *, with_digest: bool = False
) -> str:
    """Return `text` as a key of a store: different texts have different keys.

    A text stays as it is if the pattern `refused` matches none of its characters and it takes at
    most `length` bytes. Otherwise the refused characters become underscores and a digest of the
    whole text is appended, as it also is to a text that ends like such a key.

    with_digest: append the digest in any case.
    """
    plain = re.sub(refused, "_", text)
    fits = plain == text and len(plain.encode()) <= length
    if fits and not with_digest and not _HAS_DIGEST.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    room = length - _DIGEST - 1
    return f"{plain.encode()[:room].decode(errors='ignore')}-{digest}"


def folder_name(name: str) -> str:
    """Return `name` as the name of a folder or file: a `key` that keeps most punctuation."""
    return unique_key(name, _NOT_IN_FOLDERS)


def join_names(names: Sequence[str], limit: int = 10) -> str:
    """Return `a, b, c`, or the first `limit` names `and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def category_text(categories: Iterable[str]) -> str:
    """Return the categories of a model for people and as its tag, joined by `+`.

    A category may hold a `+` itself: the text is no key of several categories.
    """
    return "+".join(map(visible, categories))


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
