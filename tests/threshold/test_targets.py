"""Image thresholds for target false-reject rates, escape rates and costs."""

from __future__ import annotations

import numpy as np
import pytest

from vqlab.threshold.targets import (
    Costs,
    MaxEscapes,
    MaxRejects,
    choose_image_threshold,
    make_target,
    operating_points,
    point_at,
)
from vqlab.types import UserError

NORMALS = np.arange(99) / 100
"""0.00, 0.01, … 0.98"""
ANOMALIES = np.linspace(0.9, 1.9, 49)


def test_maximum_false_reject_rate() -> None:
    choice = choose_image_threshold(NORMALS, ANOMALIES, MaxRejects(0.05))
    assert choice.threshold == NORMALS[94] and choice.promised == 0.05 and not choice.notes
    few = choose_image_threshold(NORMALS[:9], ANOMALIES, MaxRejects(0.05))
    assert few.threshold == NORMALS[8] and few.promised == 0.1
    assert "19 images are needed for 0.05" in few.notes[0]


def test_maximum_escape_rate() -> None:
    """One of 49 anomalies may escape at 4 %: 2

    50, so the second lowest is rejected.
    """
    choice = choose_image_threshold(NORMALS, ANOMALIES, MaxEscapes(0.04))
    point = point_at(choice.threshold, NORMALS, ANOMALIES)
    assert point.escapes is not None and point.escapes.hits == 1
    assert ANOMALIES[0] <= choice.threshold < ANOMALIES[1]
    assert choice.promised is None and choice.method == "escapes" and not choice.notes
    strict = choose_image_threshold(NORMALS, ANOMALIES, MaxEscapes(0.001))
    assert strict.threshold < ANOMALIES[0] and "999 are needed for 0.001" in strict.notes[0]


def test_mean_escape_rate_of_new_anomalies_is_within_the_target() -> None:
    rng = np.random.default_rng(0)
    escapes = []
    for _ in range(400):
        scores = rng.normal(2, 1, 60)
        threshold = choose_image_threshold(rng.normal(size=9), scores, MaxEscapes(0.1)).threshold
        escapes.append(np.mean(rng.normal(2, 1, 200) <= threshold))
    assert 0.07 < np.mean(escapes) <= 0.105


def test_lowest_cost_is_the_minimum_over_all_thresholds() -> None:
    rng = np.random.default_rng(1)
    normals, anomalies = rng.normal(size=60), rng.normal(1.5, size=40)
    target = Costs(1.0, 20.0, 0.05)
    chosen = choose_image_threshold(normals, anomalies, target).threshold
    cost = target.of(point_at(chosen, normals, anomalies))
    others = [
        0.95 * np.mean(normals > t) + 0.05 * 20 * np.mean(anomalies <= t)
        for t in np.linspace(-4, 5, 2000)
    ]
    assert cost <= min(others) + 1e-12
    expensive = choose_image_threshold(normals, anomalies, Costs(1.0, 1000.0, 0.05)).threshold
    assert expensive < chosen


def test_curve_has_every_pair_of_error_rates() -> None:
    normals, anomalies = np.array([0.0, 1.0, 1.0]), np.array([1.0, 2.0])
    points = operating_points(normals, anomalies)
    errors = [(p.rejects.hits, p.escapes.hits) for p in points if p.rejects and p.escapes]
    assert errors == [(3, 0), (2, 0), (0, 1), (0, 2)]
    close = np.array([1.0, np.nextafter(1.0, 2)])  # no number in between
    assert [p.rejects.hits for p in operating_points(close, np.empty(0)) if p.rejects] == [2, 1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rejects": 0.1, "max_escapes": 0.1}, "only one target is allowed"),
        ({"max_rejects": 1.5}, "--max-rejects must be above 0 and below 1"),
        ({"cost_reject": 1.0}, "must both be positive; got 1.0 and None"),
        ({"cost_reject": 1.0, "cost_escape": -1.0}, "must both be positive"),
        ({"defect_rate": 0.1}, "--defect-rate requires"),
    ],
)
def test_invalid_targets(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_target(**options)


def test_valid_targets() -> None:
    assert make_target() is None
    assert make_target(cost_reject=1, cost_escape=5) == Costs(1, 5, 0.01)
    with pytest.raises(UserError, match="needs anomalous validation images"):
        choose_image_threshold(NORMALS, np.empty(0), MaxEscapes(0.1))
