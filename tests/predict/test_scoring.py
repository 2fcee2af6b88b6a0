"""Predictions: one row per file, pictures, bounded memory, interruption and resuming."""

from __future__ import annotations

import csv
import gc
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_photos import write_photo
from tiny_model import overflowing_model

from vqlab.cli.predictions import print_predictions
from vqlab.data import InspectedArea
from vqlab.model import Model, Prediction
from vqlab.predict import pictures, predict_files, read_rows
from vqlab.predict.rows import file_path
from vqlab.types import UserError

Photos = Callable[[int], Path]


def table(results: Path) -> list[dict[str, str]]:
    with (results / "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predictions_in_memory() -> list[Prediction]:
    return [thing for thing in gc.get_objects() if type(thing) is Prediction]


def picture_names(results: Path) -> set[str]:
    return {path.name for path in results.glob("*_viz.png")}


def stop_after(count: int) -> Callable[[int, int], None]:
    def progress(completed: int, total: int) -> None:
        if completed == count:
            raise KeyboardInterrupt

    return progress


def test_each_file_has_a_row_and_a_picture(model: Model, photos: Photos, tmp_path: Path) -> None:
    folder = photos(4)
    summary = predict_files(model, [folder], tmp_path / "p")
    rows = table(tmp_path / "p")
    assert [row["file"] for row in rows] == [str(folder / f"{i:03d}.png") for i in range(4)]
    for row in rows:
        prediction = model.score(row["file"])
        assert float(row["score"]) == prediction.score
        assert float(row["calibrated"]) == prediction.calibrated
        assert float(row["marked"]) == prediction.mask.mean()
        assert row["verdict"] == prediction.verdict
    assert {row["picture"] for row in rows} == picture_names(tmp_path / "p")
    assert {row["verdict"] for row in rows} == {"pass", "reject"}
    assert list(read_rows(tmp_path / "p/scores.jsonl")) == summary.rows
    assert not (tmp_path / "p/.predict.partial").exists()


def test_regions_are_listed_with_their_areas(model: Model, photos: Photos, tmp_path: Path) -> None:
    scaled = replace(model, data=model.data.model_copy(update={"mm_per_pixel": 0.5}))
    predict_files(scaled, [photos(4)], tmp_path / "p", pictures="none")
    rows = list(read_rows(tmp_path / "p/scores.jsonl"))
    assert [len(row.regions) for row in rows] == [
        int(row["regions"]) for row in table(tmp_path / "p")
    ]
    for row in rows:
        assert bool(row.regions) == row.rejected
        mask = model.score(row.path).mask
        assert sum(region["area"] for region in row.regions) == np.count_nonzero(mask)
        for rank, region in enumerate(row.regions, 1):
            assert region["rank"] == rank and region["area_mm2"] == region["area"] / 4
    largest = max(region["area"] for row in rows for region in row.regions)
    predict_files(model, [photos(4)], tmp_path / "large", pictures="none", min_area=largest)
    listed = [
        region for row in read_rows(tmp_path / "large/scores.jsonl") for region in row.regions
    ]
    assert listed and all(region["area"] == largest for region in listed)
    assert all(region["area_mm2"] is None for region in listed)


def test_files_are_read_with_the_bit_depth_of_the_model(model: Model, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 4096, (30, 40)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    twelve = replace(model, data=model.data.model_copy(update={"bits": 12}))
    scores = [
        predict_files(used, [tmp_path / "deep.png"], tmp_path / "p").rows[0].score
        for used in (model, twelve)
    ]
    assert scores == [used.score(tmp_path / "deep.png").score for used in (model, twelve)]
    assert scores[0] != scores[1]


def test_unreadable_files_do_not_stop_the_others(
    model: Model, photos: Photos, tmp_path: Path
) -> None:
    folder = photos(3)
    complete = (folder / "001.png").read_bytes()
    (folder / "001.png").write_bytes(complete[: len(complete) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "empty.jpg").touch()
    (folder / "gone.png").symlink_to("/nowhere/1.png")
    summary = predict_files(model, [folder], tmp_path / "p")
    assert summary.counts["unreadable"] == 4 and summary.total == 6
    rows = {Path(row["file"]).name: row for row in table(tmp_path / "p")}
    assert "damaged" in rows["001.png"]["reason"] and "empty" in rows["empty.jpg"]["reason"]
    assert "/nowhere/1.png" in rows["gone.png"]["reason"]
    assert rows["text.png"]["verdict"] == "unreadable" and rows["text.png"]["score"] == ""
    assert rows["000.png"]["score"] and picture_names(tmp_path / "p") == {
        "000_viz.png",
        "002_viz.png",
    }


def test_decoder_error_makes_a_file_unreadable(
    model: Model, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(model: Model, path: Path) -> object:
        raise KeyError("StripOffsets") if path.name == "001.png" else MemoryError

    monkeypatch.setattr(Model, "read", read)
    summary = predict_files(model, [photos(2)], tmp_path / "p")
    assert [row.reason for row in summary.rows] == ["MemoryError", "'StripOffsets'"]


@pytest.mark.parametrize("name", [b"a,b", b'a"b', b"a\nb", b"Gut_\xfc", "\u202egnp".encode()])
def test_file_names_round_trip(name: bytes, model: Model, tmp_path: Path) -> None:
    write_photo(tmp_path / "plain.png", 0)
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/photos/" + name + b".png"))
    path.parent.mkdir()
    os.rename(tmp_path / "plain.png", path)
    predict_files(model, [path.parent], tmp_path / "p")
    (row,) = table(tmp_path / "p")
    assert file_path(row["file"]) == path and (tmp_path / "p" / row["picture"]).exists()


def test_a_single_image_is_in_memory(model: Model, photos: Photos, tmp_path: Path) -> None:
    earlier, alive = predictions_in_memory(), []  # of other tests, kept until the end of this one

    def progress(completed: int, total: int) -> None:
        alive.append(len(predictions_in_memory()) - len(earlier))

    predict_files(model, [photos(4)], tmp_path / "p", progress=progress)
    assert alive == [0, 0, 0, 0]


@pytest.mark.parametrize("mode", ["auto", "all", "none"])
def test_pictures(
    mode: str, model: Model, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_AUTO", 2)
    summary = predict_files(model, [photos(5)], tmp_path / "p", pictures=mode)
    highest = sorted(summary.rows, key=lambda row: -(row.score or 0))
    expected = highest[: {"auto": 2, "all": 5, "none": 0}[mode]]
    assert picture_names(tmp_path / "p") == {row.picture for row in summary.rows if row.picture}
    assert {row.file for row in summary.rows if row.picture} == {row.file for row in expected}
    assert summary.pictures == len(expected)


def test_unknown_mode_raises_before_scoring(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--pictures must be one of auto, all, none; got 'al'"):
        predict_files(model, [tmp_path], tmp_path / "p", pictures="al")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("mode", ["auto", "none"])
def test_interrupted_prediction_is_resumed(
    mode: str, model: Model, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_AUTO", 4)
    folder, results, uninterrupted = photos(10), tmp_path / "p", tmp_path / "whole"
    (folder / "003.png").write_text("no image")
    predict_files(model, [folder], uninterrupted, pictures=mode)
    predict_files(model, [folder / "000.png"], results)
    earlier = (results / "scores.csv").read_bytes()
    with pytest.raises(KeyboardInterrupt, match="6 of 10 .*--resume"):
        predict_files(model, [folder], results, pictures=mode, progress=stop_after(6))
    assert (results / "scores.csv").read_bytes() == earlier and picture_names(results) == {
        "000_viz.png"
    }
    journal = results / ".predict.partial/journal.jsonl"
    journal.write_text(journal.read_text() + '{"file": "cut')
    scored = []
    predict_files(
        model, [folder], results, pictures=mode, resume=True,
        progress=lambda completed, total: scored.append(completed),
    )  # fmt: skip
    assert scored == [7, 8, 9, 10]
    for name in ("scores.csv", "scores.jsonl"):
        assert (results / name).read_bytes() == (uninterrupted / name).read_bytes()
    assert picture_names(results) == picture_names(uninterrupted)


def test_changed_new_and_deleted_files_are_detected(
    model: Model, photos: Photos, tmp_path: Path
) -> None:
    folder, results = photos(5), tmp_path / "p"
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, [folder], results, pictures="all", progress=stop_after(4))
    write_photo(folder / "001.png", 17)
    (folder / "002.png").unlink()
    write_photo(folder / "new.png", 5)
    predict_files(model, [folder], results, pictures="all", resume=True)
    rows = {Path(row["file"]).name: row for row in table(results)}
    assert set(rows) == {"000.png", "001.png", "003.png", "004.png", "new.png"}
    for row in rows.values():
        assert float(row["score"]) == model.score(row["file"]).score
    assert picture_names(results) == {row["picture"] for row in rows.values()}


def test_resume_with_other_settings_raises(
    model: Model, stricter: Model, photos: Photos, tmp_path: Path
) -> None:
    folder, results = photos(4), tmp_path / "p"

    def predict(chosen: Model, pictures: str = "none", **options: Any) -> None:
        predict_files(chosen, [folder], results, pictures=pictures, **options)

    with pytest.raises(KeyboardInterrupt):
        predict(model, progress=stop_after(2))
    with pytest.raises(UserError, match="only with the same model"):
        predict(stricter, resume=True)
    with pytest.raises(UserError, match="only with the same --pictures"):
        predict(model, "auto", resume=True)
    with pytest.raises(UserError, match="scored other files, e.g. .*001.png"):
        predict_files(model, [folder / "003.png"], results, resume=True, pictures="none")
    scored: list[int] = []
    predict(model, resume=True, progress=lambda completed, total: scored.append(completed))
    assert scored == [3, 4]
    with pytest.raises(UserError, match="nothing to resume"):
        predict(model, resume=True)
    predict(stricter)
    assert {row["threshold"] for row in table(results)} == {"0.5"}


def test_resume_starts_a_new_prediction_if_none_exists(
    model: Model, photos: Photos, tmp_path: Path
) -> None:
    predict_files(model, [photos(2)], tmp_path / "p", resume=True)
    assert len(table(tmp_path / "p")) == 2


def test_failure_keeps_the_previous_results(
    model: Model, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, results = photos(3), tmp_path / "p"
    predict_files(model, [folder], results)
    before = {path.name: path.read_bytes() for path in results.iterdir() if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Prediction, "picture", full)
    with pytest.raises(OSError, match="No space left"):
        predict_files(model, [folder], results)
    after = {path.name: path.read_bytes() for path in results.iterdir() if path.is_file()}
    assert after == before


def test_images_whose_scores_are_not_finite_are_unreadable(photos: Photos, tmp_path: Path) -> None:
    folder = photos(1)
    Image.new("RGB", (40, 30)).save(folder / "black.png")
    summary = predict_files(overflowing_model(), [folder], tmp_path / "p")
    infinite, finite = summary.rows
    assert finite.score == 0 and finite.verdict == "pass" and not finite.reason
    assert infinite.score is None and infinite.verdict == "unreadable"
    assert "got NaN or infinity" in infinite.reason
    assert summary.counts["unreadable"] == summary.pictures == 1


def test_image_that_is_too_small_is_unreadable(
    model: Model, photos: Photos, tmp_path: Path
) -> None:
    folder = photos(2)
    Image.new("RGB", (5000, 3)).save(folder / "strip.png")
    summary = predict_files(model, [folder], tmp_path / "p")
    assert [row.verdict for row in summary.rows].count("unreadable") == 1
    (reason,) = [row.reason for row in summary.rows if row.verdict == "unreadable"]
    assert reason == "it is 5000x3 pixels, less than 8 on a side"


def with_aspect_ratios(model: Model, **ratios: list[float]) -> Model:
    data = {**model.meta["data"], "aspect_ratios": ratios}
    return replace(model, meta={**model.meta, "data": data})


def test_shape_unlike_that_of_all_training_images_is_noted(
    model: Model, photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(2)  # 40 x 30 pixels
    Image.new("RGB", (90, 30)).save(folder / "wide.png")
    trained = with_aspect_ratios(model, part=[1.25, 1.4])
    summary = predict_files(trained, [folder], tmp_path / "p")
    note = (
        "it is 90x30 pixels, an aspect ratio of 3, but training images have 1.25 to 1.4: its score "
        "may mean little"
    )
    assert [row.note for row in summary.rows] == ["", "", note]
    assert [row["note"] for row in table(tmp_path / "p")] == ["", "", note]
    print_predictions(summary, trained)
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: shape unlike that of all training images: 1 of 3 images: " in printed
    assert f"wide.png ({note})." in printed


def test_older_model_notes_that_shapes_differ(
    model: Model, photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = photos(2)
    print_predictions(predict_files(model, [folder], tmp_path / "p"), model)
    assert "aspect ratio" not in capsys.readouterr().out
    Image.new("RGB", (90, 30)).save(folder / "wide.png")
    print_predictions(predict_files(model, [folder], tmp_path / "p"), model)
    printed = " ".join(capsys.readouterr().out.split())
    assert "the aspect ratios of the images are 1.33 to 3; the model (of an older vqlab)" in printed


def test_image_that_does_not_fit_the_inspected_area_is_unreadable(
    model: Model, photos: Photos, tmp_path: Path
) -> None:
    folder = photos(2)
    Image.new("RGB", (90, 10)).save(folder / "wide.png")
    mask = np.zeros((30, 40), np.bool_)
    mask[5:20, 5:20] = True
    described = {**model.meta["data"], "inspected": InspectedArea(mask).encode()}
    inspecting = replace(model, meta={**model.meta, "data": described})
    summary = predict_files(inspecting, [folder], tmp_path / "p")
    verdicts = [row.verdict for row in summary.rows]
    assert len(verdicts) == 3 and verdicts[2] == "unreadable" and verdicts.count("unreadable") == 1
    assert "90x10 pixels" in summary.rows[2].reason
