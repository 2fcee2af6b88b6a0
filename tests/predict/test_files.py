"""Selection of files: links, loops, hidden and system files, unreachable paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vqlab.predict.files import find_images
from vqlab.types import UserError


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def names(root: Path, *paths: Path, exclude: Path | None = None) -> list[str]:
    images = find_images(paths or [root], exclude)
    return [os.path.relpath(path, root) for path in images.errors]


def test_hidden_and_system_files_are_skipped(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "._b.png", ".DS_Store", ".hidden/c.png", "@eaDir/b.png/T.jpg"):
        put(tmp_path / name)
    for name in ("__MACOSX/d.png", "Thumbs.db", "sub/e.tiff", "desktop.ini"):
        put(tmp_path / name)
    assert names(tmp_path) == ["a.JPG", "b.png", "sub/e.tiff"]
    assert find_images([tmp_path]).notes == []


def test_other_files_are_counted_in_a_note(tmp_path: Path) -> None:
    for name in ("a.png", "b.heic", "c\n.txt", "d.gif", "e"):
        put(tmp_path / name)
    (note,) = find_images([tmp_path]).notes
    assert "4 (b.heic, c\\n.txt, d.gif, ...)" in note


def test_folder_with_an_image_suffix_is_searched(tmp_path: Path) -> None:
    put(tmp_path / "scan.png/inner.png")
    assert names(tmp_path) == ["scan.png/inner.png"]


def test_links_are_followed_without_loops(tmp_path: Path) -> None:
    put(tmp_path / "real/a.png")
    put(tmp_path / "photos/own.png")
    (tmp_path / "photos/line").symlink_to("../real")
    (tmp_path / "photos/loop").symlink_to(".")
    (tmp_path / "real/back").symlink_to("../photos")
    (tmp_path / "photos/z.png").symlink_to("../real/a.png")
    assert names(tmp_path, tmp_path / "photos") == ["photos/line/a.png", "photos/own.png"]


def test_file_reached_twice_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "photos/a.png")
    (tmp_path / "other").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    paths = [Path("photos"), tmp_path / "photos", Path("other"), Path("photos/../photos/a.png")]
    assert list(find_images(paths).errors) == [Path("photos/a.png")]
    os.link(tmp_path / "photos/a.png", tmp_path / "photos/b.png")  # two files with equal content
    assert len(find_images(paths).errors) == 2


def test_unreachable_files_are_reported(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to("/nowhere/x.png")
    (tmp_path / "line").symlink_to("/nowhere/folder")
    (tmp_path / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.png")
    faults = {path.name: fault for path, fault in find_images([tmp_path]).errors.items()}
    assert set(faults) == {"a.png", "gone.png", "line", "self.png", "pipe.png"}
    assert faults["a.png"] == "" and "/nowhere/x.png" in faults["gone.png"]
    assert "/nowhere/folder" in faults["line"] and "self.png" in faults["self.png"]
    assert "regular file" in faults["pipe.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can list every folder")
def test_unreadable_folder_is_reported(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "locked").mkdir(mode=0)
    faults = find_images([tmp_path]).errors
    assert "cannot be listed" in faults[tmp_path / "locked"]


def test_results_folder_is_excluded(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "results/a_viz.png")
    (tmp_path / "to").symlink_to("results")
    assert names(tmp_path, exclude=tmp_path / "to") == ["a.png"]


def test_no_images_raises(tmp_path: Path) -> None:
    put(tmp_path / "some/._a.png")
    with pytest.raises(UserError, match="contains no images"):
        find_images([tmp_path])
    with pytest.raises(UserError, match="does not exist"):
        find_images([tmp_path / "nowhere"])
