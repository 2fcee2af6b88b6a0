"""Names as text: every character is visible, and long names are shortened in the middle."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from vqlab.text import (
    columns,
    folder_name,
    restored,
    shell_word,
    shorten,
    storable,
    unique_key,
    visible,
    visible_lines,
)


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
def test_visible_escapes_invisible_characters(name: str, expected: str) -> None:
    assert visible(name) == expected


@pytest.mark.parametrize(
    "name, expected", [("cable", "cable"), ("nut; $(id)\n'", "'nut; $(id)\\n'\"'\"''")]
)
def test_shell_word_is_one_word(name: str, expected: str) -> None:
    assert shell_word(name) == expected
    assert shlex.split(shell_word(name)) == [visible(name)]
    visible(name).encode()


def test_visible_accepts_a_path() -> None:
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


def test_shorten_keeps_text_that_fits() -> None:
    assert shorten("short", 5) == "short"
    assert shorten("外壳", 4) == "外壳"
    assert shorten("part_0001.png", 9) == "part….png"


NAMES = [
    "nut_1", "nut#1", "nut?1", "nut+1", "nut 1", "nut-1", "Nut_1", "nut_1/a", "外壳", "划痕",
    "Gehäuse", "Geha\u0308use",
    "007", "7", "..", "x" * 300, "x" * 299, os.fsdecode(b"n\xfct"), "n\\xfct",
]  # fmt: skip


@pytest.mark.parametrize("refused", [r"[^\w.\- ]", r"[^a-zA-Z0-9_\-. ]"])
def test_keys_of_different_names_differ(refused: str) -> None:
    keys = [unique_key(name, refused) for name in NAMES]
    keys += [unique_key(key, refused) for key in keys if key not in NAMES]
    assert len(set(keys)) == len(keys)
    for key in keys:
        assert len(key.encode()) <= 100


@pytest.mark.parametrize(
    "name", ["cable", "metal_nut", "pcb-1", "v1.2", "zwei Teile", "Gehäuse", "7"]
)
def test_keys_of_ordinary_names_are_unchanged(name: str) -> None:
    assert unique_key(name) == folder_name(name) == name
    assert unique_key(name, with_digest=True).startswith(f"{name}-")


def test_folder_names_keep_punctuation_allowed_in_artifacts() -> None:
    assert folder_name("Teil (links) [2] a+b $x's") == "Teil (links) [2] a+b $x's"
    assert folder_name("nut#1").startswith("nut_1-")


def test_folder_names_that_differ_in_case_get_a_suffix() -> None:
    assert folder_name("nut", ["bolt", "nut", "Nut"]) == "nut"
    assert folder_name("nut", ["Nut"]) == unique_key("nut", with_digest=True)
    assert folder_name("Nut", ["nut"]) != folder_name("nut", ["Nut"])


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"pi\xe8ce.png"), "two\nlines", "\x1b[31m", "a\u202eb"]
)
def test_restored_inverts_visible(name: str) -> None:
    assert restored(visible(name)) == name


def test_storable_keeps_line_breaks() -> None:
    assert storable("a\n\tb\udcfc\0") == "a\n\tb\\xfc\\x00"
    assert visible_lines("a\x1b\nb\udcfc") == "a\\x1b\nb\\xfc"
