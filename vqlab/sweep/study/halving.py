"""Share the trials of a study among its recipes: a fair start, then successive halving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

FAIR_START = 2
"""Trials that every recipe gets before any is dropped."""


def next_recipe(
    recipes: Sequence[str], counts: Mapping[str, int], loss: Callable[[str], float]
) -> str:
    """Return the recipe of the next trial.

    Every recipe gets `FAIR_START` trials. Then the better half, rounded up, gets twice as many more
    each, and so on until one recipe is left, which gets the rest (Jamieson and Talwalkar 2016,
    Non-stochastic Best Arm Identification and Hyperparameter Optimization). Within a round,
    recipes alternate in their order.

    counts: trials that each recipe has had. loss: the best objective of a recipe, lower is better,
    infinite without a complete trial.
    """
    remaining = list(recipes)
    quota = size = FAIR_START
    while len(remaining) > 1:
        pending = [recipe for recipe in remaining if counts[recipe] < quota]
        if pending:
            return min(pending, key=lambda recipe: counts[recipe])
        better = sorted(remaining, key=loss)[: math.ceil(len(remaining) / 2)]
        remaining = [recipe for recipe in remaining if recipe in better]
        size *= 2
        quota += size
    return remaining[0]
