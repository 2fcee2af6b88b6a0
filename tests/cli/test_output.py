"""`--output` is checked before work starts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vqlab.cli import main


@pytest.mark.parametrize(
    "command",
    [
        "train mean_image",
        "sweep mean_image",
        "evaluate",
        "benchmark",
        "promote --category part",
        "threshold part",
        "correlate",
        "compare one two",
    ],
)
@pytest.mark.parametrize("output", ["file", "file/below"])
def test_file_in_the_way_is_named(
    command: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder")
    if command.startswith("compare"):  # writes a page
        output += "/page.html"
    monkeypatch.setattr(sys, "argv", ["vqlab", *command.split(), "--output", output])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--output must be a folder; file is a file." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_page_must_not_be_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vqlab", "compare", "a", "b", "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert f"--output must be a file; {tmp_path} is a folder." in capsys.readouterr().err
