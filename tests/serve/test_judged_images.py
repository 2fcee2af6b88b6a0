from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
from commands import ForkedProcess

from vqlab.errors import UserError
from vqlab.serve.history import History, HistoryError, HistoryFilter, Judged

HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.\U0001f600.png"


def judged(name: str = "a.png", verdict: str = "pass", category: str = "part") -> Judged:
    return Judged(
        category, 1, "run", name, f"digest of {name}", 0.5, 0.1, 0.4, verdict, 1.0, 0.8, 2
    )


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "inspection")


def test_rows_are_sorted_latest_first(history: History) -> None:
    history.add([judged("a.png"), judged(HOSTILE, "reject")])
    rows = history.rows()
    assert [row["name"] for row in rows] == [HOSTILE, "a.png"]
    assert rows[0]["score"] == 0.5 and rows[0]["regions"] == 2 and rows[0]["person"] is None


def test_undecodable_names_are_escaped(history: History) -> None:
    history.add([judged("nul\0 and \udcff.png")])
    assert history.rows()[0]["name"] == r"nul\x00 and \xff.png"


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ({"verdict": "reject"}, ["c.png"]),
        ({"category": "lid"}, ["b.png"]),
        ({"name": "A.P"}, ["a.png"]),
        ({"name": "%"}, []),
        ({"person": "good"}, ["a.png"]),
        ({"person": "none"}, ["c.png", "b.png"]),
        ({"until": "2000-01-01"}, []),
        ({"since": "2000-01-01"}, ["c.png", "b.png", "a.png"]),
    ],
)
def test_filter(history: History, where: dict[str, str], names: list[str]) -> None:
    history.add([judged("a.png"), judged("b.png", category="lid"), judged("c.png", "reject")])
    history.store("part", "digest of a.png", "a.png", ".png", b"image", "good")
    assert [row["name"] for row in history.rows(HistoryFilter(**where))] == names
    assert history.count(HistoryFilter(**where)) == len(names)


def test_pages_do_not_shift_when_images_are_added(history: History) -> None:
    history.add([judged(f"{i}.png") for i in range(5)])
    first = history.rows(limit=2)
    history.add([judged("new.png")])
    names = [row["name"] for row in [*first, *history.rows(before=first[-1]["id"])]]
    assert names == ["4.png", "3.png", "2.png", "1.png", "0.png"]


def test_latest_feedback_is_used(history: History) -> None:
    for verdict in ("good", "defect"):
        history.store("part", "d" * 64, "a.png", ".png", b"image", verdict)
    [feedback] = history.feedback("part")
    assert feedback.verdict == "defect"
    assert (history.images / feedback.file).read_bytes() == b"image"
    assert len(list(history.images.iterdir())) == 1


def test_unknown_verdict_raises(history: History) -> None:
    with pytest.raises(UserError, match="must be one of good, defect, unsure; got 'great'"):
        history.store("part", "d", "a.png", ".png", b"image", "great")


def test_recorded_role_never_changes(history: History) -> None:
    history.set_roles("part", {"a": "train", "b": "test"})
    history.set_roles("part", {"a": "test", "c": "threshold"})
    assert history.roles("part") == {"a": "train", "b": "test", "c": "threshold"}


def test_threads_create_and_write_concurrently(tmp_path: Path) -> None:
    for attempt in range(20):
        history = History(tmp_path / str(attempt))
        start = threading.Barrier(8)

        def add(number: int, history: History = history, start: threading.Barrier = start) -> None:
            start.wait()
            for index in range(3):
                history.add([judged(f"{number}-{index}.png")])

        threads = [threading.Thread(target=add, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert history.count() == 24
        assert {path.name for path in history.folder.iterdir()} == {"history.db", "history.lock"}


def test_empty_file_of_a_killed_process_is_replaced(history: History) -> None:
    history.folder.mkdir()
    (history.folder / "history.db").touch()
    history.add([judged()])
    assert history.count() == 1


def _write_forever(folder: Path) -> None:
    history = History(folder)
    index = 0
    while True:
        history.add([judged(f"{index}.png"), judged(f"{index}.png")])
        index += 1
        (folder / "completed").write_text(str(index))


def test_killed_process_loses_no_completed_call(tmp_path: Path) -> None:
    folder = tmp_path / "inspection"
    folder.mkdir()
    count = folder / "completed"
    process = ForkedProcess(_write_forever, folder, cwd=folder)
    process.wait_until(lambda: count.exists() and int(count.read_text() or 0) >= 20)
    process.kill()
    rows = History(folder).rows()
    completed = int(count.read_text() or 0)
    assert (
        len(rows) >= 2 * completed and len(rows) % 2 == 0
    )  # each call is written completely or not at all
    assert sqlite3.connect(folder / "history.db").execute("PRAGMA integrity_check").fetchone() == (
        "ok",
    )


def test_newer_history_raises(history: History) -> None:
    history.add([judged()])
    with sqlite3.connect(history.folder / "history.db") as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(HistoryError, match="version 1; got 9; update vqlab"):
        history.rows()


def test_damaged_history_raises(history: History) -> None:
    history.folder.mkdir()
    (history.folder / "history.db").write_bytes(b"no database " * 100)
    with pytest.raises(HistoryError, match="cannot be used: file is not a database"):
        history.add([judged()])
