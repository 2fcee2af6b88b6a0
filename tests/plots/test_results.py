from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageColor import getrgb

from vqlab.data import DataSettings, ImageSet
from vqlab.data.image_cache import ImageCache, ImageFile
from vqlab.evaluation import Thresholds, evaluate, predict_images
from vqlab.features import FeatureSet
from vqlab.plots import ResultsWriter, results_folder
from vqlab.plots.panels import SIDE
from vqlab.plots.style import GREEN, RED
from vqlab.types import ImageRecord, Scores, UserError

LEFT, STEP, TOP = 18, SIDE + 12, 90
"""Where the first panel begins, how far it is to the next, and the panels' upper edge."""


def panel(picture, place, height=SIDE, width=SIDE):
    left = LEFT + place * STEP + (SIDE - width) // 2
    return picture[TOP : TOP + height, left : left + width].astype(int)


def opened(path):
    with Image.open(path) as file:
        return np.array(file)


def colours_of(picture, region=np.s_[:60]):
    return {tuple(c) for c in picture[region].reshape(-1, 3).tolist()}


class Darkness:
    def __init__(self, titles=("reconstruction",), size=None) -> None:
        self.titles, self.size = titles, size

    def score(self, sample):
        maps = 1 - sample.image.mean(1)
        return Scores(maps, maps.flatten(1).amax(1))

    def panels(self, extracted):
        offered = {
            "reconstruction": extracted[0] * 0.5,
            "code map": (extracted[0].mean(1)[:, ::4, ::4] * 3).long(),
        }
        return {name: offered[name] for name in self.titles}

    def codebook_sizes(self):
        return {"code map": self.size} if self.size else {}


def scored_set(folder: Path, categories=("nut",), resize="stretch", shape=(32, 32)):
    items = []
    for category in categories:
        for index, kind in enumerate(("hole", "hole", "good", "good")):
            image = np.full((*shape, 3), 250 - index, np.uint8)
            mask = None
            path = folder / category / "test" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "hole":
                square = np.zeros(shape, np.uint8)
                square[4:12, 4:12] = 255
                image[square > 0] = 0 if index == 0 else 245
                mask = path.with_name(f"{index}_mask.png")
                Image.fromarray(square).save(mask)
            Image.fromarray(image).save(path)
            items.append(ImageFile(ImageRecord(path, category, kind, mask)))
    return ImageSet(items, ImageCache(DataSettings(image_size=32, resize=resize)))


@pytest.fixture
def quick(monkeypatch):
    """Skip rendering of curves, for tests of the other files."""
    touch = lambda figure, path: path.touch()  # noqa: E731
    monkeypatch.setattr("vqlab.plots.results.save_figure", touch)


def write(folder, images, detector=None, thresholds=None, **more):
    thresholds = thresholds or Thresholds(0.5, 0.5)
    model = SimpleNamespace(
        detector=detector or Darkness(),
        backbone=lambda x: (x,),
        device=torch.device("cpu"),
        thresholds=thresholds,
    )
    predictions = predict_images(model.detector, FeatureSet(images, model.backbone), panels=True)
    report = evaluate(predictions.scored, thresholds)
    with ResultsWriter(folder, model) as writer:
        for indices in predictions.scored.by_category().values():
            writer.draw(images.subset(indices), predictions.take(indices))
        return writer.finish(report, **more)


def test_results_of_two_categories(tmp_path, quick):
    images, progress_calls = scored_set(tmp_path / "data", ("nut", "bolt")), []
    folders = write(tmp_path / "results", images, progress=lambda *at: progress_calls.append(at))
    assert [folder.name for folder in folders] == ["bolt", "nut"]
    assert progress_calls[-1] == (8, 8) and len(progress_calls) == 8
    for folder in folders:
        curves = {"score_histogram.png", "roc.png", "pro.png", "precision_recall.png"}
        curves |= {"score_by_defect.png", "worst.png"}
        pictures = {f"{folder.name}_{i:03d}_viz.png" for i in range(4)}
        assert {p.name for p in folder.iterdir()} == pictures | curves | {"scores.csv"}
        assert len({opened(folder / name).shape for name in pictures}) == 1
    assert {p.name for p in (tmp_path / "results").iterdir()} == {"bolt", "nut"}


def test_categories_that_differ_in_case_have_separate_folders(tmp_path, quick):
    """Also on a case-insensitive file system."""
    images = scored_set(tmp_path / "data", ("nut", "Nut"))
    folders = write(tmp_path / "results", images)
    assert not folders[0].samefile(folders[1])
    assert results_folder(tmp_path / "results", "Nut") == folders[0]


def test_score_table(tmp_path):
    images = scored_set(tmp_path / "data")
    (folder,) = write(tmp_path / "results", images)
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = ["index", "file", "defect", "label", "score", "threshold", "calibrated", "verdict"]
    assert list(rows[0]) == [*keys, "correct", "p_value", "review_threshold"]
    assert [r["index"] for r in rows] == ["0", "1", "2", "3"]
    assert rows[0]["file"] == "nut/test/hole/0.png"
    assert [r["label"] for r in rows] == ["anomalous", "anomalous", "normal", "normal"]
    assert [r["verdict"] for r in rows] == ["reject", "pass", "pass", "pass"]
    assert {r["threshold"] for r in rows} == {"0.5"}
    assert [r["correct"] for r in rows] == ["yes", "no", "yes", "yes"]
    assert float(rows[0]["score"]) == 1.0
    assert [float(r["calibrated"]) > 0.5 for r in rows] == [True, False, False, False]
    for name in ("score_histogram", "score_by_defect", "roc", "pro", "precision_recall", "worst"):
        assert np.ptp(opened(folder / f"{name}.png")) > 100


def test_pictures_show_the_scored_images(tmp_path, quick):
    (folder,) = write(tmp_path / "results", scored_set(tmp_path / "data"))
    result, missed = (opened(folder / f"nut_00{i}_viz.png") for i in (0, 1))
    assert getrgb(GREEN) in colours_of(result) and getrgb(RED) in colours_of(missed)
    inside = (64, 64)
    for place in (2, 4):
        assert panel(result, place)[inside].min() > 200
    assert panel(missed, 4).max() < 60  # no predicted region
    assert panel(result, 1)[200, 200].tolist() == [125] * 3  # half the value 250


@pytest.mark.parametrize("size, described", [(16, "of 16, 14 unused"), (None, "2 codes used")])
def test_code_panels_show_and_count_codes(tmp_path, monkeypatch, size, described):
    titles = {}
    monkeypatch.setattr(
        "vqlab.plots.results.save_figure",
        lambda figure, path: titles.update({path.name: figure.get_suptitle()}),
    )
    images = scored_set(tmp_path / "data")
    (folder,) = write(tmp_path / "results", images, Darkness(("code map",), size))
    assert titles["codebook_usage.png"].startswith("nut · code map · perplexity")
    assert titles["codebook_usage.png"].endswith(described)
    pixels = panel(opened(folder / "nut_000_viz.png"), 1)
    assert len({tuple(c) for c in pixels.reshape(-1, 3).tolist()}) == 2


def test_letterboxed_panels_are_cropped(tmp_path, quick):
    images = scored_set(tmp_path / "data", resize="letterbox", shape=(16, 32))
    for titles in (("reconstruction",), ("code map",), ()):
        (folder,) = write(tmp_path / "results", images, Darkness(titles))
        second = panel(opened(folder / "nut_002_viz.png"), 1, height=128)
        # A normal image has one colour; padding would have another.
        assert titles == () or (second == second[0, 0]).all()


def test_results_replace_the_previous_folder(tmp_path, quick):
    old = tmp_path / "results" / "nut"
    old.mkdir(parents=True)
    (old / "nut_099_viz.png").write_text("old")
    (folder,) = write(tmp_path / "results", scored_set(tmp_path / "data"))
    assert folder == old and not (old / "nut_099_viz.png").exists()
    assert (old / "scores.csv").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_write_keeps_the_previous_results(tmp_path, error, quick):
    old = tmp_path / "results" / "nut"
    old.mkdir(parents=True)
    (old / "scores.csv").write_text("old")

    def stop(done, total):
        if done == 2:
            raise error

    with pytest.raises(error):
        write(tmp_path / "results", scored_set(tmp_path / "data"), progress=stop)
    assert (old / "scores.csv").read_text() == "old"
    assert [p.name for p in old.parent.iterdir()] == ["nut"]


def test_previous_results_are_restored_when_the_rename_fails(tmp_path, monkeypatch, quick):
    old = tmp_path / "results" / "nut"
    old.mkdir(parents=True)
    (old / "scores.csv").write_text("old")
    rename = Path.rename

    def refuse(self, target):
        if ".partial-" in self.name and not self.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match="Input/output error"):
        write(tmp_path / "results", scored_set(tmp_path / "data"))
    assert (old / "scores.csv").read_text() == "old"
    assert [p.name for p in old.parent.iterdir()] == ["nut"]


def test_full_disk_and_existing_file_raise(tmp_path, monkeypatch, quick):
    images = scored_set(tmp_path / "data")
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(UserError, match="occupied.nut cannot be written"):
        write(tmp_path / "occupied", images)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "nut").write_text("a file")
    with pytest.raises(UserError, match="nut is a file"):
        write(tmp_path / "results", images)
    assert (tmp_path / "results" / "nut").read_text() == "a file"

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        write(tmp_path / "elsewhere", images)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_set_without_defects_has_no_curves(tmp_path, quick):
    images = scored_set(tmp_path / "data").subset([2, 3])
    (folder,) = write(tmp_path / "results", images)
    assert not {"roc.png", "pro.png", "precision_recall.png"} & {p.name for p in folder.iterdir()}
    assert (folder / "score_histogram.png").exists() and (folder / "worst.png").exists()
    assert (folder / "score_by_defect.png").exists()
