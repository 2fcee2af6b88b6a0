from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vqlab.data import DataSettings, ImageSet
from vqlab.data.image_set import Memory, Photo
from vqlab.evaluation import Thresholds, evaluate, score_images
from vqlab.metrics import Curve
from vqlab.plots import (
    Row,
    Scale,
    codebook_usage,
    draw_row,
    loss_curves,
    panel_row,
    pro_figure,
    roc_figure,
    save_figure,
    score_histogram,
    write_results,
)
from vqlab.plots.row import SIDE
from vqlab.plots.style import AMBER, ANOMALY, GREEN, RED, TRUTH, apart, edge, lookup, percent
from vqlab.types import Sample, Scores, UserError

LEFT, STEP, TOP = 18, SIDE + 12, 90
"""Where the first panel begins, how far it is to the next, and the panels' upper edge."""


def panel(picture, place, height=SIDE, width=SIDE):
    left = LEFT + place * STEP + (SIDE - width) // 2
    return picture[TOP : TOP + height, left : left + width].astype(int)


def row(**changes) -> Row:
    """A grey image; a square of the map is above the threshold, another is defective."""
    values = np.zeros((64, 64), np.float32)
    values[16:32, 16:32] = 3.0
    mask = np.zeros((128, 128), bool)
    mask[64:96, 64:96] = True
    base = Row(
        title="nut 007",
        subtitle="scratch",
        image=np.full((128, 128, 3), 120, np.uint8),
        anomaly_map=values,
        score=2.0,
        threshold=1.0,
        scale=Scale(0.0, 1.0, 4.0, (0.0, 3.0)),
        defect=True,
        mask=mask,
        second=np.full((64, 64, 3), 200, np.uint8),
        second_title="reconstruction",
    )
    return replace(base, **changes)


def opened(path):
    with Image.open(path) as file:
        return np.array(file)


def colours_of(picture, region=np.s_[:60]):
    return {tuple(c) for c in picture[region].reshape(-1, 3).tolist()}


def test_the_row_shows_six_panels_in_order():
    picture = draw_row(row())
    assert picture.dtype == np.uint8 and picture.shape == (390, 2 * LEFT + 5 * STEP + SIDE, 3)
    original, second, truth, heat, predicted, overlay = (panel(picture, i) for i in range(6))
    assert (original == 120).all() and (second == 200).all()
    flagged, defective = (96, 96), (160, 160)  # the middles of the two squares
    assert truth[defective].min() > 200 > 60 > truth[flagged].max()
    assert predicted[flagged].min() > 200 > 60 > predicted[defective].max()
    assert tuple(heat[0, 0]) == tuple(lookup()[0])
    assert tuple(heat[flagged]) == tuple(lookup()[int(255 * (0.5 + 0.5 * 2 / 3))])
    red, green, blue = overlay[flagged]
    assert red > 1.5 * green and red > 1.5 * blue
    assert np.ptp(overlay[10, 10]) < 10
    framed = {tuple(c) for c in overlay.reshape(-1, 3).tolist()}
    assert ANOMALY in framed and TRUTH in framed


@pytest.mark.parametrize(
    "defect, score, words, colour",
    [
        (True, 2.0, "DEFECT FOUND", GREEN),
        (True, 1.0, "ESCAPE", RED),
        (False, 2.0, "FALSE REJECT", AMBER),
        (False, 0.5, "CORRECTLY PASSED", GREEN),
        (None, 2.0, "DEFECT", RED),
        (None, 0.5, "NORMAL", GREEN),
    ],
)
def test_the_verdict_is_told_in_words_and_colour(defect, score, words, colour):
    shown = row(defect=defect, score=score)
    assert shown.verdict == (words, colour)
    header = colours_of(draw_row(shown))
    assert colour in header
    assert not {GREEN, AMBER, RED} - {colour} & header


def test_proportions_are_the_images_own():
    wide = draw_row(row(image=np.full((100, 400, 3), 90, np.uint8)))
    assert (panel(wide, 0, height=64) == 90).all() and wide.shape[0] == 390 - SIDE + 64
    tall = draw_row(row(image=np.full((900, 300, 3), 90, np.uint8)))
    assert (panel(tall, 0, height=384, width=128) == 90).all()
    assert (panel(tall, 0, height=384, width=132)[:, 0] != 90).any()


def test_nothing_small_is_lost_where_panels_are_coarser():
    values, mask = np.zeros((1024, 1024), np.float32), np.zeros((1024, 1024), bool)
    values[501, 333], mask[777, 222] = 9.0, True
    picture = draw_row(row(anomaly_map=values, mask=mask))
    assert panel(picture, 2)[777 // 4, 222 // 4].min() > 200
    assert panel(picture, 4)[501 // 4, 333 // 4].min() > 200


def test_truth_and_second_panel_may_be_missing_or_codes():
    blank = panel(draw_row(row(mask=None, second=None)), 2)
    assert blank.min() < 238 and (blank[0, 0] == (238, 241, 244)).all()
    unmasked = panel(draw_row(row(mask=np.zeros((9, 9), bool))), 2)
    assert (unmasked == panel(draw_row(row(mask=None)), 2)).all()
    codes = np.repeat(np.arange(4)[None], 4, axis=0)
    shown = panel(draw_row(row(second=codes, second_title="code map")), 1)
    assert len({tuple(c) for c in shown.reshape(-1, 3).tolist()}) == 4
    assert (shown[:, :64] == shown[0, 0]).all()


def test_the_scale_is_anchored_at_the_threshold_for_any_scores():
    rng = np.random.default_rng(0)
    maps = [rng.normal(-1e6, 3, (40, 40)) for _ in range(5)]
    scale = Scale.of(maps, -1e6, np.arange(5.0))
    assert scale.low < -1e6 < scale.high and scale.scores == (0, 4)
    assert tuple(scale.colours(np.array(-1e6))) == tuple(lookup()[127])
    assert tuple(scale.colours(np.array(1e30))) == tuple(lookup()[255])
    flat = Scale.of([np.full((4, 4), 7.0)], 7.0, np.array([7.0]))
    assert flat.low < 7 < flat.high
    far = Scale.of([np.zeros((4, 4))], 5.0, np.array([0.0]))
    assert far.low <= 0 < far.threshold < far.high
    for score in (-1e300, 1e300, 0.0):  # no overflow on the way to the gauge
        draw_row(row(score=score, scale=replace(flat, scores=(-1e300, 1e300))))


def test_small_texts_tell_numbers_apart():
    assert apart(1.0, 2.0) == ("1", "2")
    assert apart(-1234567.2, -1234567.4) == ("-1234567.2", "-1234567.4")
    assert apart(0.1, 0.1) == ("0.1", "0.1")
    assert [percent(s) for s in (0, 0.5, 0.00002)] == ["0.0%", "50.0%", "0.002%"]


def test_edge_is_the_outermost_ring():
    mask = np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    ring = mask.copy()
    ring[2:5, 2:5] = False
    assert (edge(mask) == ring).all()


def test_rows_are_cheap():
    image = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    draw_row(row())
    start = time.process_time()
    for _ in range(10):
        draw_row(row(image=image))
    assert time.process_time() - start < 3.0  # about 0.5 s on an idle core


# --- the results folder ---------------------------------------------------------------------


class Darkness:
    def __init__(self, shown=("reconstruction",)) -> None:
        self.shown = shown

    def score(self, pyramid):
        maps = 1 - pyramid[0].mean(1)
        return Scores(maps, maps.flatten(1).amax(1))

    def panels(self, pyramid):
        offered = {
            "reconstruction": pyramid[0] * 0.5,
            "code map": (pyramid[0].mean(1)[:, ::4, ::4] * 3).long(),
        }
        return {name: offered[name] for name in self.shown}


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
            items.append(Photo(Sample(path, category, kind, mask)))
    return ImageSet(items, Memory(DataSettings(image_size=32, resize=resize)))


@pytest.fixture
def quick(monkeypatch):
    """Curves are drawn but not painted, for tests about the rest of the folder."""
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
    scored = score_images(model.detector, model.backbone, images)
    return write_results(folder, model, images, scored, evaluate(scored, thresholds), **more)


def test_results_of_two_categories(tmp_path, quick):
    images, seen = scored_set(tmp_path / "data", ("nut", "bolt")), []
    folders = write(tmp_path / "results", images, progress=lambda *at: seen.append(at))
    assert [folder.name for folder in folders] == ["bolt", "nut"]
    assert seen[-1] == (8, 8) and len(seen) == 8
    for folder in folders:
        curves = {"score_histogram.png", "roc.png", "pro.png", "precision_recall.png"}
        pictures = {f"{folder.name}_{i:03d}_viz.png" for i in range(4)}
        assert {p.name for p in folder.iterdir()} == pictures | curves | {"scores.csv"}
        assert len({opened(folder / name).shape for name in pictures}) == 1
    assert {p.name for p in (tmp_path / "results").iterdir()} == {"bolt", "nut"}


def test_score_table(tmp_path):
    images = scored_set(tmp_path / "data")
    (folder,) = write(tmp_path / "results", images)
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    keys = ["index", "file", "defect", "label", "score", "verdict", "correct"]
    assert list(rows[0]) == keys
    assert [r["index"] for r in rows] == ["0", "1", "2", "3"]
    assert rows[0]["file"] == "nut/test/hole/0.png"
    assert [r["label"] for r in rows] == ["1", "1", "0", "0"]
    assert [r["verdict"] for r in rows] == ["defect", "normal", "normal", "normal"]
    assert [r["correct"] for r in rows] == ["yes", "no", "yes", "yes"]
    assert float(rows[0]["score"]) == 1.0
    for name in ("score_histogram", "roc", "pro", "precision_recall"):
        assert np.ptp(opened(folder / f"{name}.png")) > 100


def test_pictures_show_what_was_scored(tmp_path, quick):
    (folder,) = write(tmp_path / "results", scored_set(tmp_path / "data"))
    found, missed = (opened(folder / f"nut_00{i}_viz.png") for i in (0, 1))
    assert GREEN in colours_of(found) and RED in colours_of(missed)
    inside = (64, 64)
    for place in (2, 4):
        assert panel(found, place)[inside].min() > 200
    assert panel(missed, 4).max() < 60  # nothing predicted
    assert panel(found, 1)[200, 200].tolist() == [125] * 3  # half of 250


@pytest.mark.parametrize("size, told", [(16, "of 16, 14 unused"), (None, "of 2, 0 unused")])
def test_codes_are_shown_and_counted(tmp_path, monkeypatch, size, told):
    titles = {}
    monkeypatch.setattr(
        "vqlab.plots.results.save_figure",
        lambda figure, path: titles.update({path.name: figure.get_suptitle()}),
    )
    images = scored_set(tmp_path / "data")
    (folder,) = write(tmp_path / "results", images, Darkness(("code map",)), codebook_size=size)
    assert titles["codebook_usage.png"].endswith(told)
    shown = panel(opened(folder / "nut_000_viz.png"), 1)
    assert len({tuple(c) for c in shown.reshape(-1, 3).tolist()}) == 2


def test_letterboxed_panels_are_cropped(tmp_path, quick):
    images = scored_set(tmp_path / "data", resize="letterbox", shape=(16, 32))
    for shown in (("reconstruction",), ("code map",), ()):
        (folder,) = write(tmp_path / "results", images, Darkness(shown))
        second = panel(opened(folder / "nut_002_viz.png"), 1, height=128)
        # A normal image is of one colour; the padding's would be another.
        assert shown == () or (second == second[0, 0]).all()


def test_results_replace_older_ones_as_a_whole(tmp_path, quick):
    old = tmp_path / "results" / "nut"
    old.mkdir(parents=True)
    (old / "nut_099_viz.png").write_text("old")
    (folder,) = write(tmp_path / "results", scored_set(tmp_path / "data"))
    assert folder == old and not (old / "nut_099_viz.png").exists()
    assert (old / "scores.csv").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_the_old_results(tmp_path, error, quick):
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


def test_the_old_results_come_back_where_the_new_cannot_move_in(tmp_path, monkeypatch, quick):
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


def test_a_full_disk_and_a_file_in_the_way_are_told(tmp_path, monkeypatch, quick):
    images = scored_set(tmp_path / "data")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="taken.nut cannot be written"):
        write(tmp_path / "taken", images)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "nut").write_text("a file")
    with pytest.raises(UserError, match="nut is a file"):
        write(tmp_path / "results", images)
    assert (tmp_path / "results" / "nut").read_text() == "a file"

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match="No space left on device; free the disk"):
        write(tmp_path / "elsewhere", images)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_scores_of_another_set_are_refused(tmp_path):
    images = scored_set(tmp_path / "data")
    model = SimpleNamespace(detector=Darkness(), thresholds=Thresholds(0.5, 0.5))
    scored = score_images(model.detector, lambda x: (x,), images)
    report = evaluate(scored, model.thresholds)
    with pytest.raises(ValueError, match="same set"):
        write_results(tmp_path / "results", model, images.subset([1, 0]), scored, report)


def test_a_set_without_defects_has_no_curves(tmp_path, quick):
    images = scored_set(tmp_path / "data").subset([2, 3])
    (folder,) = write(tmp_path / "results", images)
    assert not {"roc.png", "pro.png", "precision_recall.png"} & {p.name for p in folder.iterdir()}
    assert (folder / "score_histogram.png").exists()


def test_a_prediction_is_a_row_without_truth():
    prediction = SimpleNamespace(
        score=2.0,
        anomaly_map=row().anomaly_map,
        image=row().image,
        panels={"reconstruction": np.full((128, 128, 3), 9, np.uint8)},
        model=SimpleNamespace(thresholds=Thresholds(1.0, 1.0)),
    )
    picture = panel_row(prediction, "nut.png")
    assert RED in colours_of(picture)
    assert (panel(picture, 1) == 9).all()
    assert (panel(picture, 2)[0, 0] == (238, 241, 244)).all()


# --- curves ---------------------------------------------------------------------------------


def test_figures_carry_their_data(tmp_path):
    curve = Curve(np.array([0, 0.1, 1.0]), np.array([0, 0.8, 1.0]))
    curves = {"image_roc": curve, "pro": curve}
    (axes,) = roc_figure("nut", curves, {"image_auroc": 0.85}).axes
    assert [line.get_label() for line in axes.lines][1:] == ["images: AUROC 0.850"]
    assert (axes.lines[1].get_ydata() == curve.y).all()
    (axes,) = pro_figure("nut", curves, {"aupro": 0.5}).axes
    assert axes.get_xlim() == (0, 0.3)
    scores, labels = np.array([0.0, 1.0, 2.0, 2.0]), np.array([0, 0, 1, 0])
    (axes,) = score_histogram("nut", scores, labels, 1.5).axes
    assert sum(patch.get_height() for patch in axes.patches) == 4
    assert axes.lines[0].get_xdata()[0] == 1.5
    assert "1 false reject, 0 escapes" in axes.get_title(loc="right")
    score_histogram("flat", np.ones(3), np.zeros(3), 1.0)


def test_loss_curves_group_by_first_word(tmp_path):
    history = [
        {"train/loss": 1.0, "codebook/perplexity": 3.0},
        {"train/loss": 0.001, "codebook/perplexity": float("nan"), "plain": 1.0},
        {"train/loss": 0.5, "train/late": -1.0},
    ]
    figure = loss_curves(history)
    assert [a.get_title(loc="left") for a in figure.axes] == ["train", "codebook", "metrics"]
    train, codebook, _ = figure.axes
    assert train.get_yscale() == "linear"  # one value is negative
    assert codebook.lines[0].get_xdata().tolist() == [1.0]
    assert train.lines[1].get_xdata().tolist() == [3.0]
    assert loss_curves(history[:2]).axes[0].get_yscale() == "log"
    for epochs in ([], history[:1], [{"train/loss": float("inf")}]):
        save_figure(loss_curves(epochs), tmp_path / "loss.png")


def test_codebook_usage_tells_perplexity_and_unused():
    figure = codebook_usage([5, 0, 5, 0])
    assert "perplexity 2.0 of 4, 2 unused" in figure.get_suptitle()
    assert "perplexity 8.0 of 8, 0 unused" in codebook_usage(np.ones(8)).get_suptitle()
    assert "4 unused" in codebook_usage(np.zeros(4)).get_suptitle()


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save_figure(codebook_usage([1, 2, 3]), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
