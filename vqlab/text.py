"""Convert names from file systems and users to valid UTF-8 text and to unique keys."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

JOINERS = "\u200c\u200d"  # invisible, but part of the spelling in Persian, Hindi and emoji
ELLIPSIS = "…"
_DIGEST = 12
"""Hex digits appended to a key that differs from its text."""
_HAS_DIGEST = re.compile(rf"-[0-9a-f]{{{_DIGEST}}}$")
_NOT_IN_FOLDERS = r'[\x00-\x1f\x7f\ud800-\udfff<>:"/\\|?*#%]'
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|([nrt]))")


def visible(text: str | Path) -> str:
    r"""Return `text` as one line of valid UTF-8 without invisible characters.

    Invalid bytes become `\xfc`, control characters `\n` or `\x1b`, bidirectional marks `\u202e`.
    Different texts may give the same result: print it, but do not use it as a key.
    """
    return "".join(map(_visible_character, os.fspath(text)))


def shorten(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with its middle replaced by an ellipsis.

    East Asian wide characters take two columns, combining marks none. The end keeps at least as
    many columns as the start: names in a folder often differ at the end.
    """
    if columns(text) <= width:
        return text
    available = max(width - columns(ELLIPSIS), 0)
    start = _prefix(text, available // 2)
    end = _prefix(text[::-1], available - columns(start))[::-1]
    return start + ELLIPSIS + end


def columns(text: str) -> int:
    """Return the number of columns of `text` in a terminal or monospaced font."""
    return sum(map(_width, text))


def visible_lines(text: str) -> str:
    """Apply `visible` to each line of `text`."""
    return "\n".join(map(visible, text.split("\n")))


def storable(text: str) -> str:
    """Return `text` with characters escaped that UTF-8 files and databases cannot store."""
    return _NOT_STORABLE.sub(lambda match: _visible_character(match[0]), text)


def shell_word(text: str | Path) -> str:
    """Return `text` as one word of a shell command to be printed, quoted if necessary."""
    return shlex.quote(visible(text))


def without_password(address: str) -> str:
    """Return an address without user name and password, as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", address)


def markdown(text: str) -> str:
    """Return `text` as one line of Markdown that is shown literally, also in a table cell."""
    return re.sub(r"([\\`*\[\]<>#|&])", r"\\\1", visible(text))


def restored(text: str) -> str:
    """Invert `visible` for names without backslashes."""

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
    """Return `text` as a valid key of a store; different texts have different keys.

    A text without characters that match `refused` and with at most `length` bytes is returned
    unchanged. Otherwise these characters become underscores and a digest of the text is appended,
    as it is to a text that ends like such a key. with_digest: always append the digest.
    """
    cleaned = re.sub(refused, "_", text)
    valid = cleaned == text and len(cleaned.encode()) <= length
    if valid and not with_digest and not _HAS_DIGEST.search(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    available = length - _DIGEST - 1
    return f"{cleaned.encode()[:available].decode(errors='ignore')}-{digest}"


def folder_name(name: str, existing: Collection[str] = ()) -> str:
    """Return `name` as a unique name of a folder or file that keeps most punctuation.

    existing: the names in a folder that ignores case; if one of them differs from the result only
    in case, a digest is appended.
    """
    key = unique_key(name, _NOT_IN_FOLDERS)
    if key not in existing and key.casefold() in map(str.casefold, existing):
        return unique_key(name, _NOT_IN_FOLDERS, with_digest=True)
    return key


def join_names(names: Sequence[str], limit: int = 10) -> str:
    """Return `a, b, c`, or the first `limit` names `and 3 more`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def category_text(categories: Iterable[str]) -> str:
    """Return the categories of a model joined by `+`, for display and tags.

    Not a key: a category may contain a `+` itself.
    """
    return "+".join(map(visible, categories))


def _visible_character(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # an undecodable byte from `os.fsdecode`
        return f"\\x{ord(character) - 0xDC00:02x}"
    category = unicodedata.category(character)
    if character not in JOINERS and (category[0] == "C" or category in ("Zl", "Zp")):
        return character.encode("unicode_escape").decode("ascii")
    return character


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _prefix(text: str, width: int) -> str:
    """Return the longest prefix of `text` of at most `width` columns."""
    used = 0
    for position, character in enumerate(text):
        used += _width(character)
        if used > width:
            return text[:position]
    return text
