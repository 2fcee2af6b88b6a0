"""Names in terminal output: no markup, no control characters, no lost characters."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import pytest

from vqlab.cli import main
from vqlab.cli.fit_width import Column, FittedTable, Row
from vqlab.cli.progress import bars
from vqlab.cli.terminal import Terminal, marked

NAMES = ["part[left].png", "a[/b/c].png", "[bold]x[/]", ":bug:.png", r"a\[b].png", "[link=x]y"]


def printed(*things: object) -> str:
    file = io.StringIO()
    console = Terminal(width=100, file=file)
    for thing in things:
        console.print(thing)
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_without_markup(name: str) -> None:
    table = FittedTable(f"title {name}", [Column(f"head {name}", text=True)], [Row([name])], name)
    output = printed(f"line {name}", marked("warning", "red", f": {name}"), table)
    for line in (f"line {name}\n", f"warning: {name}\n", f"title {name}", f"│ {name}", f"\n{name}"):
        assert line in output


def test_control_characters_and_bytes_are_escaped() -> None:
    name = "a\x1b[2Jb" + os.fsdecode(b"\xfc")
    output = printed(
        name, marked("x", "bold", name), FittedTable(name, [Column("")], [Row([name])])
    )
    assert output.count(r"a\x1b[2Jb\xfc") == 4
    assert "\x1b" not in output


def test_progressbars_show_brackets() -> None:
    progress = bars()
    progress.add_task("part[left] [/] {x}", total=1, metrics="[/]")
    assert "part[left] [/] {x}" in printed(progress.get_renderable())


def test_output_has_no_markup() -> None:
    cli = Path(__file__).parents[2] / "vqlab" / "cli"
    marks = re.compile(r"\[/\]|\[/?(bold|dim|red|green|yellow)\b")
    assert not [p.name for p in cli.glob("*.py") if marks.search(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_unencodable_characters_are_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "argv", ["vqlab", "data", "check", "划痕"])
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(printed, encoding=encoding))
    with pytest.raises(SystemExit) as end:
        main()
    sys.stderr.flush()
    assert end.value.code == 2
    assert rb"\u5212\u75d5 does not exist" in printed.getvalue()
