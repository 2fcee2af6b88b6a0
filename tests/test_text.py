"""Names as text: every character can be seen, and long names lose their middle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vqlab.text import columns, shorten, visible


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("part_1.png", "part_1.png"),
        ("Gehäuse 外壳 😀 שלום.png", "Gehäuse 外壳 😀 שלום.png"),
        (os.fsdecode(b"pi\xe8ce.png"), r"pi\xe8ce.png"),
        ("two\nlines\t.png", r"two\nlines\t.png"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("part[left] $x$ 'q' \"r\"", "part[left] $x$ 'q' \"r\""),
    ],
)
def test_visible_escapes_what_cannot_be_seen(name: str, expected: str) -> None:
    assert visible(name) == expected
    visible(name).encode()


def test_visible_takes_a_path() -> None:
    assert visible(Path("a") / os.fsdecode(b"\xff.png")) == r"a/\xff.png"


@pytest.mark.parametrize("width", range(1, 24))
@pytest.mark.parametrize(
    "text", ["a_rather_long_name_0017.png", "外壳外壳外壳外壳外壳外壳外壳", "e\u0301" * 30]
)
def test_shorten_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    start, end = short.split("…")
    assert width - 2 < columns(short) <= width
    assert text.startswith(start) and text.endswith(end)


def test_shorten_leaves_what_fits() -> None:
    assert shorten("short", 5) == "short"
    assert shorten("外壳", 4) == "外壳"
    assert shorten("part_0001.png", 9) == "part….png"
