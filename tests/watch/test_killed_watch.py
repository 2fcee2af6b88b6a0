"""Killed processes: no file is judged twice or lost, and every event is delivered."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from commands import ForkedProcess, run_command, start_command
from receiver import SECRET, Receiver
from small_photos import write_photo
from watched_folders import POINTS, lines_of, watch_once, watch_until_killed

from vqlab.model import Model
from vqlab.watch import Webhook
from vqlab.watch.drift_test import DriftTest, tie_breaker


def assert_each_judged_once(model: Model, folder: Path, output: Path, names: set[str]) -> None:
    """Assert that each file has one line and was moved, and that the drift test equals that of an
    uninterrupted watch."""
    lines = lines_of(output)
    assert [line["part"] for line in lines] == list(range(1, len(names) + 1))
    assert sorted(Path(line["file"]).name for line in lines) == sorted(names)
    assert not list(folder.glob("*.png"))
    moved = [path for path in output.rglob("*.png") if path.name != "drift.png"]
    assert sorted(moved) == sorted(Path(line["target"]) for line in lines)
    calibration = model.thresholds.calibration
    assert calibration is not None
    test = DriftTest(calibration.quantiles, 0.01)
    for number, line in enumerate(lines, 1):
        step = test.update(line["score"], tie_breaker(1, number))
        assert line["drift_p_value"] == step.p_value
        assert line["wealth"] == pytest.approx(2.718281828459045**step.log_wealth)


@pytest.mark.parametrize("point", POINTS)
def test_kill_at_each_stage_of_a_part(
    point: str, model: Model, checkpoint: Path, tmp_path: Path, receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("VQLAB_WEBHOOK_SECRET", SECRET)
    folder, output = tmp_path / "in", tmp_path / "out"
    names = {write_photo(folder / f"{seed}.png", seed).name for seed in range(6)}
    where = (point, checkpoint, folder, output, receiver.url)
    assert ForkedProcess(watch_until_killed, *where, cwd=tmp_path).result().status == -9
    assert 0 < len(list(folder.glob("*.png"))) < 6
    hook = Webhook.of(receiver.url, SECRET)
    watch_once(model, folder, output, sort="move", webhook=hook)
    assert_each_judged_once(model, folder, output, names)
    assert {body["data"]["part"] for _, body in receiver.events} == set(range(1, 7))


@pytest.mark.slow
def test_repeated_kills_while_files_arrive(
    model: Model, checkpoint: Path, tmp_path: Path, receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("VQLAB_WEBHOOK_SECRET", SECRET)
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    receiver.failures = 3
    names = set[str]()
    command = (
        "watch", folder, "--model", checkpoint, "--output", output, "--sort", "move",
        "--settle", "0",  # deprecated name of --unchanged-for
        "--webhook", receiver.url,
    )  # fmt: skip

    def count_judged() -> int:
        file = output / "parts.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    for target in (7, 20, 33, 48):
        process = start_command(*command, cwd=tmp_path)
        for seed in range(len(names), target + 4):
            photo = write_photo(tmp_path / "camera" / f"{seed:03d}.png", seed)
            if seed % 2:
                shutil.copy(photo, folder)
            else:
                os.replace(photo, folder / photo.name)
            names.add(photo.name)
        process.wait_until(lambda target=target: count_judged() >= target)
        assert process.kill().status == -9
    while len({body["data"]["part"] for _, body in receiver.events}) < len(names):
        run_command(*command, "--once", cwd=tmp_path)
    assert_each_judged_once(model, folder, output, names)
