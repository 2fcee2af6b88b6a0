"""Select fonts for the characters of a text: DejaVu Sans, else fonts of this machine.

A character that no font has is escaped, so that no figure shows an empty box.
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
"""Families with many characters, tried first."""
_EXCLUDED = ("last", "emoji", "blank", "stix", "symbol", "math", "cm", "dejavu")
"""Prefixes of families without letters or outlines, and of DejaVu."""


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's DejaVu Sans, which is the same on every machine."""
    return ImageFont.truetype(_dejavu(bold), size)


def drawable(text: str | Path) -> str:
    r"""Return `text` in one line, with characters that no font has escaped (`\u5212`)."""
    text = visible(text)
    return text if text.isascii() else "".join(map(_drawable_character, text))


def families(text: str) -> list[str]:
    """Return the font families with which matplotlib can draw `text`, DejaVu Sans first."""
    fonts = dict.fromkeys(_font_of(character) for character in text)
    return list(dict.fromkeys([DEJAVU, *(family for family, _ in filter(None, fonts))]))


def text_width(text: str, size: int, bold: bool = False) -> float:
    """Return the width of a drawable text in pixels."""
    return sum(_truetype(path, size).getlength(run) for path, run in _runs(text, bold))


def fit_text(text: str | Path, width: float, size: int, bold: bool = False) -> str:
    """Return drawable `text`, shortened with an ellipsis in the middle to `width` pixels."""
    text = drawable(text)
    length, limit = text_width(text, size, bold), columns(text)
    if length > width:
        limit = max(1, int(limit * max(width, 0) / length) + 2)
    while limit > 1 and text_width(shorten(text, limit), size, bold) > width:
        limit -= 1
    return shorten(text, limit)


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
    """Draw a drawable text, each character in a font that has it; `anchor` as in Pillow."""
    runs = list(_runs(text, bold))
    if len(runs) == 1:
        draw.text(at, text, font=_truetype(runs[0][0], size), fill=fill, anchor=anchor)
        return
    ascent, descent = font(size, bold).getmetrics()
    baseline = at[1] + {"a": ascent, "m": (ascent - descent) / 2, "s": 0}[anchor[1]]
    left = at[0] - {"l": 0, "m": 0.5, "r": 1}[anchor[0]] * text_width(text, size, bold)
    for path, run in runs:
        run_font = _truetype(path, size)
        draw.text((left, baseline), run, font=run_font, fill=fill, anchor="ls")
        left += run_font.getlength(run)


def _runs(text: str, bold: bool) -> Iterator[tuple[str, str]]:
    """Yield runs of characters of one font, with the font's path."""

    def path(character: str) -> str:
        font = _font_of(character)
        return font[1] if font and font[0] != DEJAVU else _dejavu(bold)

    for font_path, characters in groupby(text, path):
        yield font_path, "".join(characters)


def _drawable_character(character: str) -> str:
    invisible = character in JOINERS or unicodedata.combining(character)
    if invisible or _font_of(character):
        return character
    return character.encode("unicode_escape").decode("ascii")


@cache
def _font_of(character: str) -> tuple[str, str] | None:
    """Return family and path of the first font with a character; None if no font has it."""
    if character.isascii() or ord(character) in _code_points(_dejavu(False)):
        return DEJAVU, _dejavu(False)
    for family, path in _other_fonts():
        if ord(character) in _code_points(path):
            return family, path
    return None


@lru_cache
def _dejavu(bold: bool) -> str:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name)


@lru_cache
def _other_fonts() -> tuple[tuple[str, str], ...]:
    """Return family and path of this machine's other regular fonts, preferred ones first."""
    from matplotlib.font_manager import fontManager

    paths: dict[str, str] = {}
    for entry in fontManager.ttflist:
        name = entry.name.lower().lstrip(".")
        excluded = name.startswith(_EXCLUDED) or "emoji" in name or "symbol" in name
        if entry.style == "normal" and str(entry.weight) in ("400", "normal") and not excluded:
            paths.setdefault(entry.name, entry.fname)
    rank = {family: number for number, family in enumerate(_PREFERRED)}
    return tuple(sorted(paths.items(), key=lambda pair: (rank.get(pair[0], len(rank)), pair[0])))


@cache
def _code_points(path: str) -> frozenset[int]:
    """Return the code points of a scalable font; empty if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        face = FT2Font(path)
        return frozenset(face.get_charmap()) if face.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@lru_cache
def _truetype(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
