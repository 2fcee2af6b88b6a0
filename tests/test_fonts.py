"""Characters in pictures are drawn with a font that contains them, or escaped."""

from __future__ import annotations

import os

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw

from vqlab import fonts
from vqlab.fonts import draw_text, drawable, families, fit_text, font, text_width

NOWHERE = "\U000f1234"
"""A private letter, which no font has."""


def rendered(text: str, anchor: str = "la") -> np.ndarray:
    image = Image.new("L", (400, 60), 255)
    draw_text(
        ImageDraw.Draw(image),
        (200 if anchor[0] == "m" else 5, 20),
        text,
        20,
        "black",
        anchor=anchor,
    )
    return np.asarray(image)


@pytest.mark.parametrize("text", ["Gehäuse", "ß ø ł č", "Деталь", "שלום", "حديد", "Ω ≤ µ"])
def test_code_points_of_dejavu_are_drawn(text: str) -> None:
    assert drawable(text) == text
    assert families(text) == ["DejaVu Sans"]
    assert (rendered(text) < 128).sum() > 50


def test_character_without_a_font_is_escaped() -> None:
    assert drawable(f"a{NOWHERE}") == r"a\U000f1234"
    assert drawable("a\nb" + os.fsdecode(b"\xfc")) == r"a\nb\xfc"


@pytest.mark.parametrize("text", ["外壳", "划痕 3", "한글", "ไทย", "😀"])
def test_every_drawn_character_has_a_glyph(text: str) -> None:
    escaped = drawable(text)
    letters = set().union(*(FT2Font(path).get_charmap() for path, _ in fonts._runs(escaped, False)))
    assert {ord(letter) for letter in escaped} <= letters


def test_text_is_split_by_font(monkeypatch: pytest.MonkeyPatch) -> None:
    serif = fonts._dejavu(False).replace("DejaVuSans", "DejaVuSerif")
    monkeypatch.setattr(fonts, "_other_fonts", lambda: (("DejaVu Serif", serif),))
    usual = fonts._code_points
    lacks = fonts._dejavu(False)
    monkeypatch.setattr(
        fonts,
        "_code_points",
        lambda path: usual(path) - {ord("ü")} if path == lacks else usual(path),
    )
    fonts._font_of.cache_clear()
    try:
        assert list(fonts._runs("aüb", False)) == [(lacks, "a"), (serif, "ü"), (lacks, "b")]
        assert families("aüb") == ["DejaVu Sans", "DejaVu Serif"]
        for anchor in ("la", "ma", "lm", "ls"):
            mixed = rendered("aüb", anchor)
            rows, columns = np.nonzero(mixed < 128)
            assert len(rows) > 50
            if anchor == "ma":
                assert abs((columns.min() + columns.max()) / 2 - 200) < 4
        baseline = [np.nonzero(rendered(t, "lm") < 128)[0].max() for t in ("aüb", "aub")]
        assert abs(baseline[0] - baseline[1]) <= 1
    finally:
        fonts._font_of.cache_clear()


@pytest.mark.parametrize("width", [10, 40, 100, 200])
def test_text_is_shortened_to_the_width(width: int) -> None:
    text = fit_text("a very long name of a picture 0017.png", width, 20)
    assert text_width(text, 20) <= width or text == "…"
    assert width < 100 or text.startswith("a") and text.endswith("g")
    assert fit_text("short", 500, 20) == "short"


def test_font_is_bundled() -> None:
    assert font(12).getname() == ("DejaVu Sans", "Book")
