"""Successive halving over recipes: equal first rungs, then more trials for the better half."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from vqlab.sweep.study.halving import FAIR_START, next_recipe


def shares(losses: dict[str, float], trials: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for _ in range(trials):
        counts[next_recipe(list(losses), counts, lambda name: losses[name])] += 1
    return counts


def test_first_rung_is_equal_for_every_recipe() -> None:
    losses = {"a": 0.5, "b": 0.1, "c": math.inf}
    order, counts = [], Counter[str]()
    for _ in range(3 * FAIR_START):
        order.append(next_recipe(list(losses), counts, lambda name: losses[name]))
        counts[order[-1]] += 1
    assert order == ["a", "b", "c"] * FAIR_START


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (10, {"a": 4, "b": 4, "c": 2}),
        (14, {"a": 6, "b": 6, "c": 2}),
        (30, {"a": 6, "b": 22, "c": 2}),
    ],
)
def test_better_half_gets_twice_as_many_trials(trials: int, expected: dict[str, int]) -> None:
    assert shares({"a": -0.8, "b": -0.9, "c": -0.7}, trials) == expected


def test_single_recipe_gets_every_trial() -> None:
    assert shares({"a": 0.0}, 5) == {"a": 5}


def test_equal_recipes_are_dropped_from_the_end() -> None:
    assert shares({"a": 0.0, "b": 0.0, "c": 0.0}, 30)["a"] == 22
