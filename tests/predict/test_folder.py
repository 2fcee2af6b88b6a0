"""The results folder: single writer, links, foreign files, and interrupted replacement."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vqlab.predict import PredictedFile, folder
from vqlab.predict.folder import open_results
from vqlab.predict.rows import write_tables
from vqlab.types import UserError


def write(results: Path, name: str) -> None:
    """Write a prediction with one picture."""
    with open_results(results) as opened:
        opened.start({})
        (opened.partial / f"{name}_viz.png").write_text(name)
        row = PredictedFile(f"{name}.png", 1.0, 1.0, 0.5, "pass", f"{name}_viz.png")
        list(write_tables(opened.partial, [row]))
        opened.complete()


def visible_names(results: Path) -> set[str]:
    return {path.name for path in results.iterdir() if not path.name.startswith(".predict.lock")}


def test_second_writer_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("p")
    with open_results(tmp_path / "p"):
        for name in ("p", "link"):
            with (
                pytest.raises(UserError, match="another prediction"),
                open_results(tmp_path / name),
            ):
                pass
    write(tmp_path / "p", "a")


def test_link_is_preserved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name, target in (("link", "real"), ("dangling", "disk/new")):
        (tmp_path / name).symlink_to(target)
        write(tmp_path / name, "a")
        write(tmp_path / name, "b")
        assert (tmp_path / name).is_symlink()
        assert visible_names(tmp_path / target) == {"b_viz.png", "scores.csv", "scores.jsonl"}


def test_foreign_files_in_the_results_folder(tmp_path: Path) -> None:
    write(tmp_path / "p", "a")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "p" / name).write_text("theirs")
    write(tmp_path / "p", "b")
    assert (tmp_path / "p/Thumbs.db").read_text() == "theirs"
    assert (tmp_path / "p/b_viz.png").exists() and not (tmp_path / "p/a_viz.png").exists()
    (tmp_path / "p/notes.txt").touch()
    with pytest.raises(UserError, match="notes.txt"):
        write(tmp_path / "p", "c")
    assert (tmp_path / "p/b_viz.png").exists()


def test_file_instead_of_the_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("a file")
    with pytest.raises(UserError, match="p cannot be written"):
        write(tmp_path / "p", "a")
    assert (tmp_path / "p").read_text() == "a file"


@pytest.mark.parametrize("moves", range(4))
def test_interrupted_replacement_is_completed(
    moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "p"
    write(results, "a")
    plain, moved = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if len(moved) == moves:
            raise KeyboardInterrupt
        plain(source, target)
        moved.append(target)

    monkeypatch.setattr(folder.os, "replace", replace)
    if moves < 3:
        with pytest.raises(KeyboardInterrupt):
            write(results, "b")
    else:
        write(results, "b")
    monkeypatch.undo()
    with open_results(results):
        assert visible_names(results) == {"b_viz.png", "scores.csv", "scores.jsonl"}
        assert "b.png" in (results / "scores.csv").read_text()
