from __future__ import annotations

import numpy as np
import pytest

from vqlab.evaluation import CalibrationScores, operating_point


@pytest.mark.parametrize("count", [1, 19, 65, 500])
def test_counts_equal_those_of_the_scores(count: int) -> None:
    scores = np.round(np.random.default_rng(count).normal(size=count), 1)  # with ties
    defects = [0.5, 1.0, 2.0]
    normals = CalibrationScores.of(scores)
    for threshold in (-9.0, *scores[:20], 0.05, 9.0):
        point = operating_point(float(threshold), normals, defects)
        assert point.rejects == ((scores > threshold).sum(), count)
        assert point.escapes == (sum(d <= threshold for d in defects), 3)


def test_without_all_scores_the_count_is_an_upper_bound() -> None:
    scores = np.random.default_rng(0).normal(size=1000)
    normals = CalibrationScores(1000, tuple(np.quantile(scores, np.linspace(0, 1, 65))))
    for threshold in np.linspace(-3, 3, 50):
        point = operating_point(float(threshold), normals, [])
        above = (scores > threshold).sum()
        assert point.rejects is not None and above <= point.rejects.hits <= above + 1000 / 64 + 1


def test_intervals_are_exact() -> None:
    point = operating_point(1.0, CalibrationScores(4, (0.0, 0.1, 0.2, 0.3)), [2.0] * 6)
    assert point.reject_interval is not None and point.escape_interval is not None
    assert point.reject_interval.high == pytest.approx(1 - 0.025 ** (1 / 4))
    assert point.escape_interval == (0, pytest.approx(1 - 0.025 ** (1 / 6)))


def test_operating_point_without_scores_is_undefined() -> None:
    point = operating_point(1.0, None, [])
    assert point.rejects is None and point.escapes is None
    assert point.reject_interval is None and point.escape_interval is None
