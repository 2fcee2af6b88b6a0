"""`vqlab predict` in processes: exit status, output, kill -9, concurrent calls, memory."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_photos import write_photo

from vqlab.cli import main
from vqlab.predict.folder import open_results

Photos = Callable[[int], Path]


def command(checkpoint: Path, results: Path, *arguments: object) -> list[str]:
    start = [sys.executable, "-m", "vqlab", "predict", "-m", str(checkpoint)]
    return [*start, "--output", str(results), *map(str, arguments)]


def predict(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, results: Path, *arguments: object
) -> int:
    monkeypatch.setattr(sys, "argv", ["vqlab", *command(checkpoint, results, *arguments)[3:]])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def count(results: Path) -> int:
    with (results / "scores.csv").open(newline="") as file:
        return len(list(csv.DictReader(file)))


def test_unreadable_file_exits_with_status_3(
    checkpoint: Path,
    photos: Photos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = photos(3)
    (folder / "bad[red].png").write_text("no image")
    (folder / "notes.txt").touch()
    assert predict(monkeypatch, checkpoint, tmp_path / "p", folder) == 3
    captured = capsys.readouterr()
    assert "1 of 4 files could not be scored" in captured.err and "bad[red].png" in captured.err
    assert "the others were scored" in captured.err
    assert (
        "bad[red].png" in captured.out
        and "unreadable" in captured.out
        and "notes.txt" in captured.out
    )
    assert count(tmp_path / "p") == 4
    assert predict(monkeypatch, checkpoint, tmp_path / "q", folder / "bad[red].png") == 3
    assert "others" not in capsys.readouterr().err
    assert predict(monkeypatch, checkpoint, tmp_path / "q", folder / "000.png") == 0


@pytest.mark.parametrize("side", ["0", "-1", "nan", "inf"])
def test_pixel_size_must_be_positive(
    side: str,
    checkpoint: Path,
    photos: Photos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    option = f"--mm-per-pixel={side}"
    assert predict(monkeypatch, checkpoint, tmp_path / "p", photos(1), option) == 2
    assert f"must be a finite number above 0; got {side}" in capsys.readouterr().err


def test_many_images_are_summarised(
    checkpoint: Path,
    photos: Photos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = photos(60)
    assert predict(monkeypatch, checkpoint, tmp_path / "p", folder, "--pictures", "none") == 0
    output = capsys.readouterr().out
    assert "of 60 images rejected" in output and "the 10 highest scores" in output
    assert "images/s" in output and "no pictures" in output
    assert len(re.findall(r"\d+\.png", output)) == 10


def test_concurrent_prediction_is_rejected_before_it_starts(
    checkpoint: Path,
    photos: Photos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_results(tmp_path / "p"):
        assert predict(monkeypatch, checkpoint, tmp_path / "p", photos(2)) == 2
    assert "another prediction" in capsys.readouterr().err
    assert not (tmp_path / "p/scores.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_killed_prediction_is_resumed(
    signum: signal.Signals, checkpoint: Path, photos: Photos, tmp_path: Path
) -> None:
    folder, results, uninterrupted = photos(100), tmp_path / "p", tmp_path / "whole"
    subprocess.run(command(checkpoint, uninterrupted, folder), check=True, capture_output=True)
    arguments = command(checkpoint, results, folder)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = results / ".predict.partial/journal.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if signum == signal.SIGKILL else 130)
    assert signum == signal.SIGKILL or "--resume" in errors
    assert not (results / "scores.csv").exists()
    done = subprocess.run([*arguments, "--resume"], check=True, capture_output=True, text=True)
    assert "of 100 images rejected" in done.stdout
    for name in ("scores.csv", "scores.jsonl"):
        assert (results / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert {p.name for p in results.glob("*.png")} == {p.name for p in uninterrupted.glob("*.png")}


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Prints the peak memory of a command in KiB. The peak of a child process counts what its parent
had when it started it, so the parent is this small process and not pytest's."""


@pytest.mark.slow
def test_memory_is_independent_of_the_number_of_images(checkpoint: Path, tmp_path: Path) -> None:
    counts = {"few": 10, "many": 30}  # both are more than are read ahead
    for name, count in counts.items():
        for index in range(count):
            write_photo(tmp_path / f"{name}/{index}.jpg", index, (4000, 3000))
    peaks = []
    for name in counts:
        arguments = command(checkpoint, tmp_path / f"p_{name}", tmp_path / name)
        measured = subprocess.run(
            [sys.executable, "-c", PEAK, *arguments], check=True, capture_output=True, text=True
        )
        peaks.append(int(measured.stdout) / 1024)  # MiB
    assert peaks[1] - peaks[0] < 250  # 20 images of 126 MiB each would exceed this
    assert max(peaks) < 1536
