"""Copies of a study in memory, cut and worded for Optuna's own evaluators and plots."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from vqlab.plots.slices import Setting
from vqlab.plots.trials import Goal
from vqlab.sweep.shown import Shown, found_within, plain
from vqlab.sweep.study import RECIPE, RUN_ID, recipe_of


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No word of Optuna's about copies, trials without values, and experimental arguments."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def view(
    shown: Shown, recipe: str | None, goals: Sequence[Goal], found: bool = False
) -> optuna.Study:
    """The trials of one recipe (None: of all, its name before each setting), these of their values.

    Settings have short names, choices are words; `found` adds the settings that were searched
    within each trial, as if drawn. Trials keep their numbers: all others are there as failed ones.
    """
    better = {True: StudyDirection.MAXIMIZE, False: StudyDirection.MINIMIZE}
    with quiet():
        study = optuna.create_study(
            study_name=recipe or shown.name, directions=[better[goal.maximize] for goal in goals]
        )
        for trial in shown.raw:
            kept = recipe is None or recipe_of(trial) == recipe
            study.add_trial(
                _copy(shown, trial, goals, found, f"{recipe_of(trial)}." if recipe is None else "")
                if kept and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
                else create_trial(state=TrialState.FAIL)
            )
    return study


def _copy(
    shown: Shown, trial: FrozenTrial, goals: Sequence[Goal], found: bool, prefix: str
) -> FrozenTrial:
    plotted = shown.trials[trial.number]
    if trial.state == TrialState.COMPLETE and not plotted.values:  # inf is no value
        return create_trial(state=TrialState.FAIL)
    drawn = _drawn(shown, trial)
    for setting in shown.settings[plotted.recipe] if found else ():
        value = plotted.settings.get(setting.name)
        if setting.found and value is not None:
            word = str(value) if setting.choices else value
            drawn[setting.name] = word, _as_if_drawn(setting)
    prefix = prefix.lstrip(".")
    return create_trial(
        state=trial.state,
        values=[plotted.values[shown.goals.index(goal)] for goal in goals]
        if plotted.values
        else None,
        params={prefix + name: value for name, (value, _) in drawn.items()},
        distributions={prefix + name: distribution for name, (_, distribution) in drawn.items()},
        user_attrs={"run": trial.user_attrs[RUN_ID]} if RUN_ID in trial.user_attrs else {},
        intermediate_values=dict(plotted.curve),
        constraints=trial.constraints,
    )


def _drawn(shown: Shown, trial: FrozenTrial) -> dict[str, tuple[Any, BaseDistribution]]:
    """Value and distribution of what was drawn for a trial and not found within it, by name."""
    recipe, within = recipe_of(trial), found_within(trial)
    drawn = {}
    for key, value in trial.params.items():
        path = key.removeprefix(f"{recipe}.") if recipe else key
        if key == RECIPE or path in within:
            continue
        distribution = trial.distributions[key]
        if isinstance(distribution, CategoricalDistribution):
            words = [plain(choice) for choice in distribution.choices]
            if len(set(words)) == len(words):
                value, distribution = plain(value), CategoricalDistribution(words)
        drawn[shown.names[recipe][path]] = value, distribution
    return drawn


def _as_if_drawn(setting: Setting) -> BaseDistribution:
    if setting.choices:
        return CategoricalDistribution(setting.choices)
    return FloatDistribution(setting.low, setting.high, log=setting.log)
