from __future__ import annotations

import numpy as np
from PIL.ImageColor import getrgb

from vqlab.evaluation import Thresholds
from vqlab.plots import style
from vqlab.plots.panels import Row, Scale
from vqlab.plots.worst import draw_worst, worst_of

AMBER, GREEN, RED = (getrgb(name) for name in (style.AMBER, style.GREEN, style.RED))


def row(score: float, defect: bool, grey: int, shape: tuple[int, int] = (64, 64)) -> Row:
    """Return a picture of a single grey value with a threshold of 1."""
    return Row(
        title="nut 007",
        subtitle="scratch",
        image=np.full((*shape, 3), grey, np.uint8),
        anomaly_map=np.zeros((16, 16), np.float32),
        score=score,
        thresholds=Thresholds(1.0, 1.0),
        scale=Scale(0.0, 0.5, 1.0),
        anomalous=defect,
        mask=np.zeros(shape, bool),
    )


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(c) for c in picture.reshape(-1, 3).tolist()}


def test_lowest_defects_and_highest_normals_are_selected() -> None:
    scores = np.array([5.0, 1, 9, 3, 7, 2, 8, 4, 6, 0])
    labels = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
    assert worst_of(scores, labels) == ([1, 3, 0, 4], [6, 8, 7, 5])
    assert worst_of(scores[:2], labels[:2]) == ([1, 0], [])
    assert worst_of(scores[:0], labels[:0]) == ([], [])


def test_sheet_shows_misses_left_and_false_alarms_right() -> None:
    sheet = draw_worst("nut", [row(0.5, True, 71), row(2, True, 72)], [row(2, False, 73)])
    middle = sheet.shape[1] // 2
    left, right = colours(sheet[:, :middle]), colours(sheet[:, middle:])
    assert {(71, 71, 71), (72, 72, 72), RED, GREEN} <= left and (73, 73, 73) not in left
    assert {(73, 73, 73), AMBER} <= right and not {RED, GREEN} & right
    assert sheet.dtype == np.uint8


def test_sheet_without_mistakes_and_without_images() -> None:
    right = draw_worst("nut", [row(2, True, 71)], [row(0.5, False, 73)])
    wrong = draw_worst("nut", [row(0.5, True, 71)], [row(0.5, False, 73)])
    middle = right.shape[1] // 2
    heading = np.s_[50:74, :middle]
    assert GREEN in colours(right[heading]) and GREEN not in colours(wrong[heading])
    assert draw_worst("nut", [], []).shape[1] == right.shape[1]
    tall = draw_worst("nut", [row(2, True, 71, (300, 20))] * 4, [])
    wide = draw_worst("nut", [row(2, True, 71, (20, 300))] * 4, [])
    assert tall.shape[0] > right.shape[0] + 600 > wide.shape[0]
