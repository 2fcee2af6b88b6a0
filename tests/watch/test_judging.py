"""Judging a folder: complete files only, each once, sorted by verdict, with one line per file."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageFilter
from small_photos import write_photo
from tiny_model import overflowing_model, tiny_model
from watched_folders import lines_of, watch_once

from vqlab.cli.watch_table import part_text, status_table
from vqlab.data.appearance import NORMAL_IMAGES
from vqlab.errors import UserError
from vqlab.model import Model
from vqlab.predict import predict_files, read_rows
from vqlab.predict.folder import identity_of
from vqlab.watch import Status, WatchSettings, read_drift_state, watch_folder
from vqlab.watch.drift import normal_values
from vqlab.watch.drift_test import DriftTest, tie_breaker
from vqlab.watch.martingale import ChangeMartingale
from vqlab.watch.store import Store


def write_photos(folder: Path, *seeds: int) -> None:
    for seed in seeds:
        write_photo(folder / f"{seed:03d}.png", seed)


def test_lines_equal_those_of_predict(model: Model, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", *range(6))
    (tmp_path / "in/broken.png").write_bytes(b"no image")
    watch_once(model, tmp_path / "in", tmp_path / "out")
    predict_files(model, [tmp_path / "in"], tmp_path / "predicted", pictures="none")
    predicted = {row.file: row for row in read_rows(tmp_path / "predicted/scores.jsonl")}
    watched = {row.file: row for row in read_rows(tmp_path / "out/parts.jsonl")}
    assert watched == predicted and len(watched) == 7
    verdicts = {row.verdict for row in watched.values()}
    assert verdicts == {"pass", "reject", "unreadable"}
    first = lines_of(tmp_path / "out")[0]
    assert first["part"] == 1 and 0 < first["drift_p_value"] < 1 and first["wealth"] > 0
    assert 0.4 < first["brightness"] < 0.6 and first["sharpness"] > 0
    with Image.open(tmp_path / "out/drift.png") as picture:
        assert picture.size[0] > 400


def test_image_whose_scores_are_not_finite_is_unreadable(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1)
    watch_once(overflowing_model(), tmp_path / "in", tmp_path / "out")
    (line,) = lines_of(tmp_path / "out")
    assert line["verdict"] == "unreadable" and "got NaN or infinity" in line["reason"]


def test_shape_unlike_that_of_training_images_is_noted(model: Model, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1)
    Image.new("RGB", (90, 30)).save(tmp_path / "in/wide.png")
    data = {**model.meta["data"], "aspect_ratios": {"part": [1.33, 1.34]}}
    noting = replace(model, meta={**model.meta, "data": data})
    status = watch_once(noting, tmp_path / "in", tmp_path / "out")
    usual, wide = lines_of(tmp_path / "out")
    assert usual["note"] == "" and "an aspect ratio of 3, but training images" in wide["note"]
    assert status.noted is not None and status.noted.note == wide["note"]
    assert part_text(status.noted).endswith(f" (note: {wide['note']})")
    assert f"note: wide.png: {wide['note']}" in str(status_table("part", status).caption)


def test_file_is_judged_once_unless_its_content_changes(model: Model, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1, 2)
    for _ in range(2):
        watch_once(model, tmp_path / "in", tmp_path / "out")
    assert len(lines_of(tmp_path / "out")) == 2
    write_photo(tmp_path / "in/001.png", 30)
    watch_once(model, tmp_path / "in", tmp_path / "out")
    files = [Path(line["file"]).name for line in lines_of(tmp_path / "out")]
    assert sorted(files) == ["001.png", "001.png", "002.png"] and files[2] == "001.png"


def test_incomplete_file_is_skipped(model: Model, tmp_path: Path) -> None:
    content = write_photo(tmp_path / "photo.png", 1).read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    growing, hidden = folder / "growing.png", folder / ".hidden.png"
    hidden.write_bytes(content)
    growing.write_bytes(content[:500])
    settings = WatchSettings(folder, tmp_path / "out", unchanged_for=0.05, patience=1e6, poll=0.01)
    stop, listings = threading.Event(), 0

    def on_status(status: Status, row: object) -> None:
        nonlocal listings
        listings += 1
        if listings == 20:
            assert status.waiting == 1 and not status.counts.total()
            growing.write_bytes(content[:700])
        elif listings == 40:
            assert not status.counts.total()
            growing.write_bytes(content)
        elif listings == 60:
            os.replace(hidden, folder / "renamed.png")
        if status.counts.total() == 2:
            stop.set()

    watch_folder(model, settings, stop, on_status=on_status)
    lines = lines_of(tmp_path / "out")
    assert [Path(line["file"]).name for line in lines] == ["growing.png", "renamed.png"]
    assert lines[0]["score"] == lines[1]["score"]


@pytest.mark.parametrize("sort", ["move", "copy"])
def test_files_are_sorted_by_verdict(model: Model, tmp_path: Path, sort: str) -> None:
    folder, output = tmp_path / "in", tmp_path / "in/out"
    write_photos(folder, *range(4))
    write_photos(folder / "sub", 0)
    (folder / "sub/broken.png").write_bytes(b"no image")
    before = {path.relative_to(folder) for path in folder.rglob("*.png")}
    watch_once(model, folder, output, sort=sort)
    lines = lines_of(output)
    for line in lines:
        file = Path(line["file"]).relative_to(folder)
        assert Path(line["target"]) == output / line["verdict"] / file
        assert Path(line["target"]).is_file()
        assert Path(line["file"]).exists() == (sort == "copy")
    assert {Path(line["file"]).relative_to(folder) for line in lines} == before
    watch_once(model, folder, output, sort=sort)
    assert len(lines_of(output)) == len(before)


def test_repeated_name_does_not_overwrite_a_sorted_file(model: Model, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        write_photo(tmp_path / "in/latest.png", seed)
        watch_once(model, tmp_path / "in", tmp_path / "out", sort="move")
    targets = [Path(line["target"]) for line in lines_of(tmp_path / "out")]
    assert len(set(targets)) == 3 and all(target.is_file() for target in targets)


def test_existing_file_is_not_overwritten(model: Model, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 0)
    other = tmp_path / "out/pass/000.png"
    other.parent.mkdir(parents=True)
    other.write_text("other")
    with pytest.raises(UserError, match="must not exist"):
        watch_once(model, tmp_path / "in", tmp_path / "out", sort="move")
    assert other.read_text() == "other" and (tmp_path / "in/000.png").exists()
    other.unlink()
    watch_once(model, tmp_path / "in", tmp_path / "out", sort="move")
    assert other.exists() and len(lines_of(tmp_path / "out")) == 1


def test_names_that_are_not_utf_8(model: Model, tmp_path: Path) -> None:
    name = os.fsdecode(b"k\xe4bel.png")
    write_photo(tmp_path / "photo.png", 0)
    (tmp_path / "in").mkdir()
    shutil.copy(tmp_path / "photo.png", tmp_path / "in" / name)
    for _ in range(2):
        watch_once(model, tmp_path / "in", tmp_path / "out", sort="move")
    (row,) = read_rows(tmp_path / "out/parts.jsonl")
    assert row.path == tmp_path / "in" / name
    assert (tmp_path / "out/pass" / name).exists()


def test_drift_raises_one_alarm_that_names_the_property(model: Model, tmp_path: Path) -> None:
    photos = [write_photo(tmp_path / f"normal/{seed}.png", seed) for seed in range(100, 131)]
    model = tiny_model(1.0, [model.score(photo).score for photo in photos])
    for seed in range(30):
        path = write_photo(tmp_path / f"in/{seed:03d}.png", seed)
        if seed >= 10:
            with Image.open(path) as image:
                image.point(lambda value: value // 8).save(path)
        os.utime(path, (seed, seed))
    watch_once(model, tmp_path / "in", tmp_path / "out")
    store = Store(tmp_path / "out", tmp_path / "in")
    state = store.test()
    store.close()
    assert state is not None and state.alarm is not None
    alarm = state.alarm
    assert 10 < alarm["part"] <= 30 and 9 <= alarm["since_part"] <= 12
    assert alarm["wealth"] >= 100 and "brightness" in alarm["text"]
    first = next(n for n in lines_of(tmp_path / "out") if n["wealth"] >= 100)
    assert first["part"] == alarm["part"]


def test_noise_raises_an_alarm_independent_of_the_scores(tmp_path: Path) -> None:
    """Blurred photos keep their mean grey value, which is this model's score."""
    normal = [write_photo(tmp_path / f"normal/{seed}.png", seed) for seed in range(100, 131)]
    scores = [tiny_model(1.0).score(photo).score for photo in normal]
    model = tiny_model(1.0, scores, normal)
    for seed in range(30):
        path = write_photo(tmp_path / f"in/{seed:03d}.png", seed)
        if seed >= 10:
            with Image.open(path) as image:
                image.filter(ImageFilter.GaussianBlur(0.8)).save(path)
        os.utime(path, (seed, seed))
    status = watch(model, tmp_path)
    assert status.alarm is not None and status.alarm["streams"] == ["noise"]
    assert 10 < status.alarm["part"] <= 30 and 9 <= status.alarm["since_part"] <= 12
    assert "by noise): " in status.alarm["text"] and "median noise" in status.alarm["text"]
    assert status.wealths["noise"] >= 100 > status.wealths["score"]
    lines = lines_of(tmp_path / "out")
    assert lines[-1]["wealths"] == status.wealths
    assert lines[-1]["wealth"] == status.wealths["noise"]
    only_scores = watch(model, tmp_path / "scores", tmp_path / "in", streams=("score",))
    assert only_scores.alarm is None and set(only_scores.wealths) == {"score"}


def test_alarm_after_few_parts_states_its_cause(model: Model, tmp_path: Path) -> None:
    """Three scores exceed those of all 20 held-out images."""
    write_photos(tmp_path / "in", 2, 3, 4)
    alarm = watch(model, tmp_path).alarm
    assert alarm is not None and alarm["part"] == 3 and alarm["since_part"] == 1
    assert "(alarm at part 3, by score): median score 0.295 → 1.478 (+401%)" in alarm["text"]


def watch(model: Model, output: Path, folder: Path | None = None, **options: object) -> Status:
    """Judge the files of `folder`, by default `output/in`."""
    values = {"unchanged_for": 0, **options}
    settings = WatchSettings(folder or output / "in", output / "out", **values)  # type: ignore[arg-type]
    return watch_folder(model, settings, threading.Event(), True)


def test_streams_are_fixed_when_a_test_starts(tmp_path: Path) -> None:
    normal = [write_photo(tmp_path / f"normal/{seed}.png", seed) for seed in range(100, 110)]
    model = tiny_model(1.0, [0.1], normal)
    write_photos(tmp_path / "in", 0)
    status = watch(model, tmp_path, streams=("brightness", "score"))
    assert list(status.wealths) == ["score", "brightness"]
    assert list(watch(model, tmp_path).wealths) == ["score", "brightness"]
    with pytest.raises(UserError, match="--streams must be score,brightness, as in .*--new-test"):
        watch(model, tmp_path, streams=("score",))
    assert list(watch(model, tmp_path, new_test=True).wealths) == ["score", "noise"]
    with pytest.raises(UserError, match="--streams must be among score, brightness, .*concept"):
        watch(model, tmp_path, new_test=True, streams=("concept",))
    with pytest.raises(UserError, match="--streams must be among score, which the model stores"):
        watch(tiny_model(1.0, [0.1]), tmp_path, streams=("noise",))


def test_joint_model_compares_images_within_their_category(tmp_path: Path) -> None:
    model = tiny_model(1.0, [0.1])
    data = {**model.meta["data"], "categories": ["part", "lid"]}
    stored = {"noise": [1.0, 2.0, 3.0], "category": ["part", "lid", "part"]}
    joint = replace(model, meta={**model.meta, "data": data, NORMAL_IMAGES: stored})
    assert normal_values(joint.for_category("part")) == {"score": [0.1], "noise": [1.0, 3.0]}
    assert normal_values(joint) == {"score": [0.1]}
    older = {name: values for name, values in stored.items() if name != "category"}
    joint = replace(joint, meta={**joint.meta, NORMAL_IMAGES: older})
    assert normal_values(joint.for_category("lid")) == {"score": [0.1]}


def test_database_of_the_first_version_continues_with_scores(tmp_path: Path) -> None:
    """The drift test, parts and events are kept; a read-only reader can read them too."""
    normal = [write_photo(tmp_path / f"normal/{seed}.png", seed) for seed in range(100, 110)]
    model = tiny_model(0.4, [0.2 + 0.01 * n for n in range(20)], normal)
    write_photos(tmp_path / "in", 0, 1)
    (tmp_path / "out").mkdir()
    accounts = [-3.0, -4.0, -5.0, -6.0, -7.0, -8.0]
    with closing(sqlite3.connect(tmp_path / "out/watch.db")) as database:
        database.executescript(FIRST_VERSION)
        database.execute("INSERT INTO watch VALUES ('x', ?)", (str(tmp_path / "in"),))
        database.execute(
            "INSERT INTO tests VALUES (1, ?, 0.01, 1, ?, NULL)",
            (model.digest, json.dumps(accounts)),
        )
        file = tmp_path / "in/000.png"
        size, time = identity_of(file) or (0, 0)
        line = json.dumps({"part": 1, "file": str(file)})
        values = (str(file), size, time, "pass", 0.25, 0.5, 0.1, None, -0.5, line, None)
        database.execute(f"INSERT INTO parts VALUES (1, 1, {', '.join('?' * 11)})", values)
        database.commit()
    state = read_drift_state(tmp_path / "out")
    earlier = ChangeMartingale(1, accounts)
    assert state is not None and state.tested == 1
    assert state.wealths == {"score": pytest.approx(math.exp(earlier.log_wealth))}
    notes: list[str] = []
    settings = WatchSettings(tmp_path / "in", tmp_path / "out", unchanged_for=0)
    status = watch_folder(model, settings, threading.Event(), True, notes.extend)
    assert "uses score only, as when it was started; --new-test" in notes[0]
    assert status.tested == 2 and status.counts.total() == 2
    test = DriftTest([0.2 + 0.01 * n for n in range(20)], 0.01)
    test.restore([0.25], earlier)
    step = test.update(model.score(tmp_path / "in/001.png").score, tie_breaker(1, 2))
    assert status.wealths == {"score": pytest.approx(math.exp(step.log_wealth))}
    assert lines_of(tmp_path / "out")[1]["noise"] > 0
    assert list(watch(model, tmp_path, new_test=True).wealths) == ["score", "noise"]


FIRST_VERSION = """
CREATE TABLE watch (id TEXT NOT NULL, folder TEXT NOT NULL);
CREATE TABLE tests (
  id INTEGER PRIMARY KEY, model TEXT NOT NULL, level REAL NOT NULL, count INTEGER NOT NULL,
  accounts TEXT NOT NULL, alarm TEXT
);
CREATE TABLE parts (
  id INTEGER PRIMARY KEY, test INTEGER NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL,
  modified INTEGER NOT NULL, verdict TEXT NOT NULL, score REAL, brightness REAL, sharpness REAL,
  concept INTEGER, log_wealth REAL, line TEXT NOT NULL, target TEXT
);
CREATE INDEX parts_file ON parts (file);
CREATE INDEX parts_target ON parts (target);
CREATE TABLE placements (part INTEGER PRIMARY KEY, mode TEXT NOT NULL);
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT ''
);
PRAGMA user_version = 1;
"""


def test_drift_test_is_bound_to_its_model_and_level(model: Model, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 0)
    notes: list[str] = []

    def watch(model: Model, **options: object) -> Status:
        settings = WatchSettings(tmp_path / "in", tmp_path / "out", unchanged_for=0, **options)  # type: ignore[arg-type]
        return watch_folder(model, settings, threading.Event(), True, notes.extend)

    assert watch(model).tested == 1
    assert watch(model).tested == 1 and len(notes) == 1
    assert "does not store noise of held-out normal images" in notes.pop()
    with pytest.raises(UserError, match="--level must be 0.01"):
        watch(model, level=0.05)
    assert watch(model, level=0.05, new_test=True).tested == 0
    assert watch(tiny_model(0.4)).tested == 0
    assert "does not store noise" in notes[0]
    assert "does not store all scores" in notes[1] and "the model has changed" in notes[2]


def test_invalid_settings_raise(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for options, text in (
        ({"folder": tmp_path / "none"}, "existing folder"),
        ({"output": tmp_path}, "--output must not contain"),
        ({"sort": "away"}, "--sort must be one of"),
        ({"streams": ("score", "colour")}, "--streams must be a list of score, .*got score,colour"),
        ({"streams": ()}, "--streams must be a list of score, .*got none"),
        ({"level": 1.0}, "--level must be between 0 and 1"),
    ):
        values = {"folder": tmp_path / "in", "output": tmp_path / "out", **options}
        with pytest.raises(UserError, match=text):
            WatchSettings(**values)  # type: ignore[arg-type]


def test_output_is_bound_to_one_folder_and_locked_by_one_process(
    model: Model, tmp_path: Path
) -> None:
    write_photos(tmp_path / "in", 0)
    write_photos(tmp_path / "other", 0)
    watch_once(model, tmp_path / "in", tmp_path / "out")
    with pytest.raises(UserError, match="belongs to the folder"):
        watch_once(model, tmp_path / "other", tmp_path / "out")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/watch.db").write_text("no database" * 100)
    with pytest.raises(UserError, match="must be a database of vqlab watch"):
        watch_once(model, tmp_path / "in", tmp_path / "broken")
    write_photos(tmp_path / "in", 1)

    def on_status(status: Status, row: object) -> None:
        with pytest.raises(UserError, match="another vqlab watch"):
            watch_once(model, tmp_path / "in", tmp_path / "out")

    settings = WatchSettings(tmp_path / "in", tmp_path / "out", unchanged_for=0)
    watch_folder(model, settings, threading.Event(), True, on_status=on_status)


def test_lines_are_rewritten_from_the_database(model: Model, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", *range(5))
    watch_once(model, tmp_path / "in", tmp_path / "out")
    file = tmp_path / "out/parts.jsonl"
    complete = file.read_bytes()
    for damaged in (b"", complete[:-1], complete[:1000], complete.split(b"\n")[0] + b"\n"):
        file.write_bytes(damaged)
        watch_once(model, tmp_path / "in", tmp_path / "out")
        assert file.read_bytes() == complete
    for foreign in (b"text\n", json.dumps({"part": 99}).encode() + b"\n"):
        file.write_bytes(foreign)
        with pytest.raises(UserError, match="must be a copy of"):
            watch_once(model, tmp_path / "in", tmp_path / "out")
        assert file.read_bytes() == foreign
