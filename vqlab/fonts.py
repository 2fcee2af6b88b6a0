"""Fonts that have the letters of a text: DejaVu Sans, and where it lacks some, this machine's.

A letter that no font has is escaped, so that no picture shows an empty box for it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

from vqlab.text import JOINERS, columns, shorten, visible

DEJAVU = "DejaVu Sans"
_PREFERRED = (
    "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP",
    "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
    "Arial Unicode MS", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei",
    "Yu Gothic", "MS Gothic", "SimHei", "Malgun Gothic", "Nirmala UI", "Segoe UI", "FreeSans",
)  # fmt: skip
"""Families with many letters, looked at before the machine's others."""
_UNFIT = ("last", "emoji", "blank", "stix", "symbol", "math", "cm", "dejavu")
"""Beginnings and parts of families without letters, without outlines, or looked at already."""


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib brings it: the same letters on every machine."""
    return ImageFont.truetype(_dejavu(bold), size)


def drawable(text: str | Path) -> str:
    r"""Return `text` in one line, with `\u5212` for a letter that no font of this machine has."""
    shown = visible(text)
    return shown if shown.isascii() else "".join(map(_drawable_character, shown))


def families(text: str) -> list[str]:
    """Return the families to draw `text` with in matplotlib, DejaVu Sans first."""
    places = dict.fromkeys(_font_of(character) for character in text)
    return list(dict.fromkeys([DEJAVU, *(family for family, _ in filter(None, places))]))


def text_width(text: str, size: int, bold: bool = False) -> float:
    """Return the width of a drawable text in pixels."""
    return sum(_truetype(path, size).getlength(run) for path, run in _runs(text, bold))


def fitted(text: str | Path, width: float, size: int, bold: bool = False) -> str:
    """Return `text` as it can be drawn, its middle left out where it exceeds `width` pixels."""
    shown = drawable(text)
    length = text_width(shown, size, bold)
    most = columns(shown)
    if length > width:
        most = max(1, int(most * max(width, 0) / length) + 2)
    while most > 1 and text_width(shorten(shown, most), size, bold) > width:
        most -= 1
    return shorten(shown, most)


def draw_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    fill: tuple[int, int, int] | str,
    *,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """Draw a drawable text, each letter in a font that has it; `anchor` is Pillow's."""
    runs = list(_runs(text, bold))
    if len(runs) == 1:
        draw.text(at, text, font=_truetype(runs[0][0], size), fill=fill, anchor=anchor)
        return
    ascent, descent = font(size, bold).getmetrics()
    baseline = at[1] + {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]
    left = at[0] - {"l": 0, "m": 0.5, "r": 1}[anchor[0]] * text_width(text, size, bold)
    for path, run in runs:
        letters = _truetype(path, size)
        draw.text((left, baseline), run, font=letters, fill=fill, anchor="ls")
        left += letters.getlength(run)


def _runs(text: str, bold: bool) -> Iterator[tuple[str, str]]:
    """Return the parts of a text that one font draws, each with the font's path."""

    def path(character: str) -> str:
        found = _font_of(character)
        return found[1] if found and found[0] != DEJAVU else _dejavu(bold)

    for place, letters in groupby(text, path):
        yield place, "".join(letters)


def _drawable_character(character: str) -> str:
    joined = character in JOINERS or unicodedata.combining(character)
    if joined or _font_of(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


@cache
def _font_of(character: str) -> tuple[str, str] | None:
    """Return family and path of the first font with a letter; None where there is none."""
    if character.isascii() or ord(character) in _letters(_dejavu(False)):
        return DEJAVU, _dejavu(False)
    for family, path in _other_fonts():
        if ord(character) in _letters(path):
            return family, path
    return None


@lru_cache
def _dejavu(bold: bool) -> str:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@lru_cache
def _other_fonts() -> tuple[tuple[str, str], ...]:
    """Return family and path of this machine's other upright fonts, the preferred ones first."""
    from matplotlib.font_manager import fontManager

    found: dict[str, str] = {}
    for entry in fontManager.ttflist:
        name = entry.name.lower().lstrip(".")
        unfit = name.startswith(_UNFIT) or "emoji" in name or "symbol" in name
        if entry.style == "normal" and str(entry.weight) in ("400", "normal") and not unfit:
            found.setdefault(entry.name, entry.fname)
    rank = {family: number for number, family in enumerate(_PREFERRED)}
    return tuple(sorted(found.items(), key=lambda pair: (rank.get(pair[0], len(rank)), pair[0])))


@cache
def _letters(path: str) -> frozenset[int]:
    """Return the code points that a font has outlines for; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(path)
        return frozenset(face.get_charmap()) if face.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@lru_cache
def _truetype(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
