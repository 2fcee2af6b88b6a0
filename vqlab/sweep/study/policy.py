"""Sampler of a study, and which of its trials may win."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from vqlab.sweep.study.record import recipe_of, record_of

STARTUP = 5
"""Trials of a study before the sampler fits a model and the pruner prunes: budgets are small."""


def sampler(seed: int, trials_so_far: int, recipe: str = "") -> TPESampler:
    """Return a sampler for the next trial.

    It is seeded anew for each trial, so that a resumed study samples new points, and an interrupted
    study samples the same points as an uninterrupted one. Studies of different recipes sample
    independently.
    """
    entropy = [seed, trials_so_far, *recipe.encode()]
    word = np.random.SeedSequence(entropy).generate_state(1)[0]
    return TPESampler(seed=int(word), n_startup_trials=STARTUP)


def n_done(trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials count towards the target: complete and pruned ones."""
    return sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)


def candidates(trials: Sequence[FrozenTrial], recipe: str | None = None) -> list[FrozenTrial]:
    """Return the complete trials that may win; those that violate a constraint or have a dead
    codebook only if there is no other.

    recipe: only the trials of this one.
    """
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    done = [t for t in done if recipe in (None, recipe_of(t))]
    done = [t for t in done if not record_of(t).violation] or done
    return [t for t in done if not record_of(t).dead_codebook] or done


def best_of(trials: Sequence[FrozenTrial], maximize: bool) -> FrozenTrial | None:
    """Return the trial with the best value of the first objective, the first of equals."""
    sign = -1 if maximize else 1
    return min(trials, key=lambda trial: sign * trial.values[0], default=None)
