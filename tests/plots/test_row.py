from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL.ImageColor import getrgb

from vqlab.data import find_regions
from vqlab.evaluation import Thresholds
from vqlab.plots import panel_row, style
from vqlab.plots.panels import SIDE, Row, Scale, panels_of
from vqlab.plots.row import _HEADER as HEADER
from vqlab.plots.row import draw_row, in_two_rows
from vqlab.plots.style import (
    AMBER,
    ANOMALY,
    BELOW,
    GREEN,
    RED,
    TRUTH,
    distinct_texts,
    edge,
    lookup,
    percent,
)

LEFT, STEP, TOP = 18, SIDE + 12, 90
"""Where the first panel begins, how far it is to the next, and the panels' upper edge."""


def panel(picture, place, height=SIDE, width=SIDE):
    left = LEFT + place * STEP + (SIDE - width) // 2
    return picture[TOP : TOP + height, left : left + width].astype(int)


def row(**changes) -> Row:
    """A grey image; one square of the map exceeds the threshold, another is defective."""
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
        thresholds=Thresholds(1.0, 1.0),
        scale=Scale(0.0, 1.0, 4.0, (0.0, 3.0)),
        anomalous=True,
        mask=mask,
        panel=np.full((64, 64, 3), 200, np.uint8),
        panel_title="reconstruction",
    )
    return replace(base, **changes)


def colours_of(picture, region=np.s_[:60]):
    return {tuple(c) for c in picture[region].reshape(-1, 3).tolist()}


def test_row_has_six_panels_in_order():
    picture = draw_row(row())
    assert picture.dtype == np.uint8 and picture.shape == (390, 2 * LEFT + 5 * STEP + SIDE, 3)
    original, second, truth, heat, predicted, overlay = (panel(picture, i) for i in range(6))
    assert (original == 120).all() and (second == 200).all()
    flagged, defective = (96, 96), (160, 160)  # centres of the two squares
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
        (True, 2.0, "REJECT · correct", GREEN),
        (True, 1.0, "PASS · missed", RED),
        (False, 2.0, "REJECT · false alarm", AMBER),
        (False, 0.5, "PASS · correct", GREEN),
        (None, 2.0, "REJECT", RED),
        (None, 0.5, "PASS", GREEN),
    ],
)
def test_header_shows_the_verdict_in_words_and_colour(defect, score, words, colour):
    example = row(anomalous=defect, score=score)
    assert example.badge == (words, colour)
    assert example.verdict == words.partition(" ")[0].lower()
    header = colours_of(draw_row(example))
    assert getrgb(colour) in header
    assert not {getrgb(other) for other in (GREEN, AMBER, RED) if other != colour} & header


def reddish(picture):
    """Return where a pixel of the overlay, otherwise grey, is tinted red."""
    overlay = panel(picture, 5)
    return (overlay[..., 0] > 1.5 * overlay[..., 1]) & (overlay[..., 0] > 1.5 * overlay[..., 2])


def test_passed_image_has_no_predicted_mask():
    """Pixels above the pixel threshold are drawn in other colours, with a caption."""
    passed = row(score=1.0)
    picture = draw_row(passed)
    assert not reddish(picture).any() and reddish(draw_row(row())).any()
    predicted, overlay = panel(picture, 4), panel(picture, 5)
    assert predicted.max() < 128 and predicted[96, 96].max() > 60 > predicted[10, 10].max()
    assert BELOW in {tuple(c) for c in overlay.reshape(-1, 3).tolist()}
    captions = {title: caption for title, caption, _ in panels_of(passed)}
    assert captions["predicted mask"] == "passed · grey: above pixel threshold"
    assert captions["overlay"] == "amber: not rejected · cyan: truth"
    quiet = row(score=1.0, anomaly_map=np.zeros((64, 64), np.float32))
    captions = {title: caption for title, caption, _ in panels_of(quiet)}
    assert captions["predicted mask"] == "passed: no pixel above threshold"
    assert captions["overlay"] == "cyan: truth"


@pytest.mark.parametrize("side", [64, 1024])
def test_rejected_image_always_has_a_predicted_mask(side):
    """The mask is its peak if no pixel exceeds the pixel threshold."""
    values = np.full((side, side), 0.2, np.float32)
    values[side // 2, side // 4] = 0.9
    example = row(anomaly_map=values)
    captions = {title: caption for title, caption, _ in panels_of(example)}
    assert captions["predicted mask"] == "none above threshold: peak marked"
    picture = draw_row(example)
    assert reddish(picture)[128, 64] and panel(picture, 4)[128, 64].min() > 200
    assert reddish(picture).mean() < 0.01


def test_slope_of_a_region_is_not_marked_or_outlined() -> None:
    values = np.zeros((64, 64), np.float32)
    values[16:32, 16:32], values[20:28, 20:28] = 1.2, 3.0
    example = row(anomaly_map=values, thresholds=Thresholds(1.0, 1.0, region_height=0.4))
    captions = {title: caption for title, caption, _ in panels_of(example)}
    # 64 of 4096 pixels, and their blurred border
    assert captions["predicted mask"] == "1.7% of the image"
    assert captions["overlay"] == "red: predicted · cyan: truth"


def test_header_shows_the_calibrated_score() -> None:
    assert row().score_text == "score 2  >  image threshold 1"
    assert (
        row(calibrated=0.98765).score_text == "score 2  >  image threshold 1  ·  calibrated 0.988"
    )
    plain, described = draw_row(row()), draw_row(row(calibrated=0.5))
    assert (plain[:60] != described[:60]).any() and (plain[62:] == described[62:]).all()


def test_aspect_ratio_is_preserved():
    wide = draw_row(row(image=np.full((100, 400, 3), 90, np.uint8)))
    assert (panel(wide, 0, height=64) == 90).all() and wide.shape[0] == 390 - SIDE + 64
    tall = draw_row(row(image=np.full((900, 300, 3), 90, np.uint8)))
    assert (panel(tall, 0, height=384, width=128) == 90).all()
    assert (panel(tall, 0, height=384, width=132)[:, 0] != 90).any()


def test_small_regions_remain_visible_in_downsampled_panels():
    values, mask = np.zeros((1024, 1024), np.float32), np.zeros((1024, 1024), bool)
    values[501, 333], mask[777, 222] = 9.0, True
    picture = draw_row(row(anomaly_map=values, mask=mask))
    assert panel(picture, 2)[777 // 4, 222 // 4].min() > 200
    assert panel(picture, 4)[501 // 4, 333 // 4].min() > 200


def test_optional_mask_and_panels():
    blank = panel(draw_row(row(mask=None, panel=None)), 2)
    assert blank.min() < 238 and (blank[0, 0] == (238, 241, 244)).all()
    unmasked = panel(draw_row(row(mask=np.zeros((9, 9), bool))), 2)
    assert (unmasked == panel(draw_row(row(mask=None)), 2)).all()
    codes = np.repeat(np.arange(4)[None], 4, axis=0)
    pixels = panel(draw_row(row(panel=codes, panel_title="code map")), 1)
    assert len({tuple(c) for c in pixels.reshape(-1, 3).tolist()}) == 4
    assert (pixels[:, :64] == pixels[0, 0]).all()


def test_colour_scale_is_anchored_at_the_threshold():
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
    for score in (-1e300, 1e300, 0.0):  # no overflow in the gauge
        draw_row(row(score=score, scale=replace(flat, scores=(-1e300, 1e300))))


def test_small_numbers_are_formatted_distinctly():
    assert distinct_texts(1.0, 2.0) == ("1", "2")
    assert distinct_texts(-1234567.2, -1234567.4) == ("-1234567.2", "-1234567.4")
    assert distinct_texts(0.1, 0.1) == ("0.1", "0.1")
    assert [percent(s) for s in (0, 0.5, 0.00002)] == ["0.0%", "50.0%", "0.002%"]


def test_edge_is_one_pixel_wide():
    mask = np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    ring = mask.copy()
    ring[2:5, 2:5] = False
    assert (edge(mask) == ring).all()


def test_prediction_is_a_row_without_mask():
    prediction = SimpleNamespace(
        score=2.0,
        calibrated=0.9,
        anomaly_map=row().anomaly_map,
        image=row().image,
        inspected=None,
        panels={"reconstruction": np.full((128, 128, 3), 9, np.uint8)},
        model=SimpleNamespace(thresholds=Thresholds(1.0, 1.0)),
    )
    picture = panel_row(prediction, "nut.png")
    assert getrgb(RED) in colours_of(picture)
    assert (panel(picture, 1) == 9).all()
    assert (panel(picture, 2)[0, 0] == (238, 241, 244)).all()


@pytest.mark.parametrize("shape", [(128, 128), (60, 200), (200, 60)])
def test_two_rows_of_three_panels_contain_the_complete_picture(shape):
    picture = draw_row(row(image=np.full((*shape, 3), 120, np.uint8), mask=None))
    folded = in_two_rows(picture)
    width, body = picture.shape[1] // 2, picture.shape[0] - HEADER
    assert folded.dtype == np.uint8 and folded.shape[1] == width
    above, below = folded[-2 * body : -body], folded[-body:]
    for place in range(3):
        left = slice(LEFT + place * STEP, LEFT + place * STEP + SIDE)
        right = slice(left.start + 3 * STEP, left.stop + 3 * STEP)
        assert (above[:, left] == picture[HEADER:, left]).all()
        assert (below[:, left] == picture[HEADER:, right]).all()
    header = folded[: -2 * body]
    assert colours_of(header, np.s_[:HEADER]) == colours_of(picture, np.s_[:HEADER, :600])
    assert (header[HEADER:].min(axis=(0, 1)) < 120).all()  # score and verdict


LONG = "a very long file name with many words that goes on and on until it meets the score 0017.png"


@pytest.mark.parametrize("title", [LONG, "外" * 80, "W" * 300, r"part[left] $x^2$", "\n" * 40])
def test_title_does_not_overlap_score_and_verdict(title):
    plain = draw_row(row(title="", subtitle="", calibrated=0.123))
    for subtitle in ("", "scratch", LONG):
        titled = draw_row(row(title=title, subtitle=subtitle, calibrated=0.123))
        changed = np.nonzero((titled != plain).any(axis=(0, 2)))[0]
        assert LEFT <= changed.min() and changed.max() < 600
        assert (in_two_rows(titled)[HEADER:] == in_two_rows(plain)[HEADER:]).all()


def test_long_title_does_not_overlap_the_subtitle():
    picture = draw_row(row(title=LONG, subtitle="scratch"))
    assert getrgb(style.MUTED) in colours_of(picture, np.s_[:60, :600])


def test_several_regions_are_numbered():
    values = np.zeros((64, 64), np.float32)
    values[10:20, 10:20], values[40:44, 30:50] = 2.0, 3.0
    regions = find_regions(values, values > 1)
    plain = row(anomaly_map=values, mask=None)
    numbered, unnumbered = replace(plain, regions=regions), replace(plain, regions=regions[:1])
    pictures = [panels_of(each)[5] for each in (plain, numbered, unnumbered)]
    (_, _, without), (_, caption, several), (_, _, single) = pictures
    assert caption == "red: predicted, numbered by peak" and (single == without).all()
    changed = (several != without).any(axis=2)
    assert changed[157, 117:201].all() and changed[37, 37:81].all()  # upper edges of the boxes
    assert not changed[100:140].any() and not changed[:, 210:].any()


def test_pixels_outside_the_inspected_area_are_pale_and_never_marked():
    inspected = np.ones((128, 128), bool)
    inspected[:64] = False
    example = row(inspected=inspected, mask=None)  # the bright square is in the upper half
    panels = {title: (caption, picture) for title, caption, picture in panels_of(example)}
    assert panels["original"][0] == "128 × 128 px · 50.0% inspected"
    for title in ("error heat map", "predicted mask"):
        assert (panels[title][1][:120] == style.OUTSIDE).all()
        assert not (panels[title][1][136:] == style.OUTSIDE).all(axis=2).any()
    assert panels["predicted mask"][0] == "none above threshold: peak marked"
    assert panels["overlay"][1][60].min() > 180 > panels["overlay"][1][200].max()


def test_gauge_is_not_split_between_rows():
    """A long verdict moves the gauge left of the position at which a header is split."""
    alarm = {"anomalous": False, "score": 1.4251, "calibrated": 0.971}
    for title in ("", "part 001"):
        picture = draw_row(
            row(title=title, subtitle="", thresholds=Thresholds(1.2143, 1.0), **alarm)
        )
        assert (picture[:HEADER, 590:600] != 255).any()
        assert (in_two_rows(picture)[:HEADER, 400:] == 255).all()
