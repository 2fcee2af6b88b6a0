"""Streams share one level; the bound holds although they are dependent."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from vqlab.watch.drift_test import DriftTest, tie_breaker
from vqlab.watch.streams import STREAMS, DriftStreams, shares_of, weights_of


@pytest.mark.parametrize(
    ("streams", "weights"),
    [
        (["score"], [1.0]),
        (["score", "noise"], [0.5, 0.5]),
        (["noise", "concept"], [0.5, 0.5]),
        (STREAMS, [0.5, 0.125, 0.125, 0.125, 0.125]),
    ],
)
def test_shares_of_the_level_sum_to_one(streams: list[str], weights: list[float]) -> None:
    assert weights_of(streams) == dict(zip(streams, weights, strict=True))
    tests = DriftStreams({name: [] for name in streams}, 0.04).tests
    assert math.fsum(test.level for test in tests.values()) == pytest.approx(0.04)
    logs = {name: test.alarm_at for name, test in tests.items()}
    for share in shares_of(logs).values():  # alarm threshold of a stream: its share is 1 / level
        assert math.exp(share) == pytest.approx(25)


def test_each_stream_equals_a_single_test_of_its_property() -> None:
    rng = np.random.default_rng(0)
    calibration = {"score": rng.normal(size=20).tolist(), "noise": rng.normal(size=12).tolist()}
    parts = [{"score": x, "noise": y, "other": 0} for x, y in rng.normal(size=(30, 2)).tolist()]
    streams = DriftStreams(calibration, 0.01)
    steps = [streams.update(part, 7) for part in parts]
    for name, seed in (("score", ""), ("noise", "noise")):
        single = DriftTest(calibration[name], 0.005)
        expected = [
            single.update(part[name], tie_breaker(7, n, seed)) for n, part in enumerate(parts, 1)
        ]
        assert [step[name] for step in steps] == expected


def test_restored_streams_equal_uninterrupted_streams() -> None:
    rng = np.random.default_rng(1)
    calibration = {
        "score": rng.normal(size=9).tolist(),
        "concept": rng.integers(3, size=9).tolist(),
    }
    parts = [{"score": float(rng.normal()), "concept": int(rng.integers(3))} for _ in range(40)]
    uninterrupted, first, second = (DriftStreams(calibration, 0.01) for _ in range(3))
    expected = [uninterrupted.update(part, 1) for part in parts][20:]
    for part in parts[:20]:
        first.update(part, 1)
    second.restore(parts[:20], first.martingales)
    assert [second.update(part, 1) for part in parts[20:]] == expected


def test_p_values_of_a_stream_depend_on_the_past_of_another() -> None:
    """This is why the wealth of streams is not averaged: over all orders of three exchangeable
    parts, the third p-value of `score` is uniform given the past of `score`, but not given the past
    of both streams."""
    parts = [(1.0, 2.0), (2.0, 1.0), (3.0, 3.0)]
    thirds: dict[bool, list[float]] = {True: [], False: []}
    for order in itertools.permutations(parts):
        tests = DriftTest([], 0.01), DriftTest([], 0.01)
        p_values = [[test.update(x, 0.5).p_value for x, test in zip(p, tests, strict=True)]
                    for p in order]  # fmt: skip
        opposite = p_values[1][0] != p_values[1][1]
        thirds[opposite].append(p_values[2][0])
    assert np.mean(thirds[True] + thirds[False]) == pytest.approx(0.5)
    assert set(np.round(thirds[True], 3)) == {round(0.5 / 3, 3)}  # always the largest score
