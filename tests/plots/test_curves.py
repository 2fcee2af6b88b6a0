from __future__ import annotations

import numpy as np

from vqlab.metrics import Curve
from vqlab.plots import loss_curves, save_figure
from vqlab.plots.curves import (
    codebook_usage,
    figure_text,
    new_figure,
    pro_figure,
    roc_figure,
    score_by_defect,
    score_histogram,
)


def test_figures_contain_the_data(tmp_path):
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
    title = axes.get_title(loc="right")
    assert "false rejects 1 of 3 (0.01–0.91), escapes 0 of 1 (0.00–0.97)" in title
    score_histogram("flat", np.ones(3), np.zeros(3), 1.0)


def test_scores_by_defect_type_show_every_image(tmp_path):
    kinds = ["good"] * 5 + ["hole"] * 4 + ["thin_scratch"] * 2
    labels = np.array([0] * 5 + [1] * 6)
    scores = np.array([0.1, 0.2, 0.3, 0.4, 2.0, 1.0, 3.0, 4.0, 5.0, 0.5, 6.0])
    figure = score_by_defect("nut", scores, labels, kinds, 1.0)
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["good", "thin scratch", "hole"]
    offsets = np.concatenate([c.get_offsets() for c in axes.collections if len(c.get_offsets())])
    points = [x for x, y in offsets if (x, y) != (0, 0)]
    assert sorted(points) == sorted(scores)
    assert [t.get_text() for t in axes.texts] == [
        "1 of 5 rejected\n(0.01–0.72)",
        "1 of 2 escaped\n(0.01–0.99)",
        "1 of 4 escaped\n(0.01–0.81)",
    ]
    assert len(axes.patches) == 2  # two points have no box
    save_figure(figure, tmp_path / "a.png")
    (axes,) = score_by_defect("nut", scores * 1e3, labels, kinds, 1.0).axes
    assert axes.get_xscale() == "log"
    save_figure(score_by_defect("flat", np.ones(3), np.zeros(3), ["good"] * 3, 1.0), tmp_path / "b")


def test_loss_curves_group_by_first_word(tmp_path):
    history = [
        {"train/loss": 1.0, "codebook/perplexity": 3.0},
        {"train/loss": 0.001, "codebook/perplexity": float("nan"), "plain": 1.0},
        {"train/loss": 0.5, "train/late": -1.0},
    ]
    figure = loss_curves(history)
    assert [a.get_title(loc="left") for a in figure.axes] == ["train", "codebook", "metrics"]
    train, codebook, _ = figure.axes
    assert train.get_yscale() == "linear"  # a negative value
    assert codebook.lines[0].get_xdata().tolist() == [1.0]
    assert train.lines[1].get_xdata().tolist() == [3.0]
    assert loss_curves(history[:2]).axes[0].get_yscale() == "log"
    unseen = {"train/nll": 1.0, "train/unseen_nll": 2.0, "train/seen_nll": 1.5}
    _, pair = loss_curves([unseen]).axes
    assert [line.get_label() for line in pair.lines] == ["unseen_nll", "seen_nll"]
    for epochs in ([], history[:1], [{"train/loss": float("inf")}]):
        save_figure(loss_curves(epochs), tmp_path / "loss.png")


def test_codebook_usage_shows_perplexity_and_unused_codes():
    figure = codebook_usage([5, 0, 5, 0])
    assert "perplexity 2.0 of 4, 2 unused" in figure.get_suptitle()
    assert "perplexity 8.0 of 8, 0 unused" in codebook_usage(np.ones(8)).get_suptitle()
    assert "4 unused" in codebook_usage(np.zeros(4)).get_suptitle()


def test_figure_file_is_reproducible(tmp_path):
    for name in ("a", "b"):
        save_figure(codebook_usage([1, 2, 3]), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


KINDS = [
    "sehr langer Fehlername mit vielen Wörtern und Leerzeichen " * 3,
    "划痕",
    "$x^{2",
    "_a",
    "a\nb",
]


def test_unusual_names_do_not_shrink_the_plot(tmp_path):
    scores, labels = np.arange(5.0), np.array([0, 1, 1, 1, 1])
    figure = score_by_defect("Gehäuse 外壳 $5 and $6 " * 9, scores, labels, KINDS, 1.5)
    save_figure(figure, tmp_path / "kinds.png")  # warnings about missing glyphs are errors here
    box = figure.axes[0].get_window_extent()
    assert box.width > 0.35 * figure.bbox.width
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "\\$x^{2" in names and "a\\nb" in names


def test_dollar_sign_is_not_interpreted_as_math(tmp_path):
    for name in ("one $ and another $", r"a\$b"):
        escaped = figure_text(name)
        figure = new_figure("", 4, 2)
        text = figure.text(0.5, 0.5, escaped)
        assert text._preprocess_math(escaped) == (name, False)
