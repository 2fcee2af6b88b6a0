"""In-memory copies of a study for Optuna's importance evaluators and plots."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from vqlab.sweep.report.study_data import Goal, Setting, StudyData, plain, searched_within
from vqlab.sweep.study.record import RECIPE, recipe_of, record_of


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log and warnings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def study_copy(
    data: StudyData, recipe: str | None, goals: Sequence[Goal], searched: bool = False
) -> optuna.Study:
    """Copy the trials of one recipe, or of all with the recipe before each setting's name.

    Settings have short names and choices are text. `searched` adds the settings that were searched
    within each trial. Trials keep their numbers: the others are copied as failed trials.
    """
    directions = [
        StudyDirection.MAXIMIZE if goal.maximize else StudyDirection.MINIMIZE for goal in goals
    ]
    with quiet():
        study = optuna.create_study(study_name=recipe or data.name, directions=directions)
        for trial in data.raw:
            included = recipe is None or recipe_of(trial) == recipe
            prefix = recipe_of(trial) if recipe is None else ""
            study.add_trial(
                _trial_copy(data, trial, goals, searched, f"{prefix}." if prefix else "")
                if included and trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
                else create_trial(state=TrialState.FAIL)
            )
    return study


def _trial_copy(
    data: StudyData, trial: FrozenTrial, goals: Sequence[Goal], searched: bool, prefix: str
) -> FrozenTrial:
    shown = data.trials[trial.number]
    if trial.state == TrialState.COMPLETE and not shown.values:  # an infinite value
        return create_trial(state=TrialState.FAIL)
    params = _sampled(data, trial)
    for setting in data.settings[shown.recipe] if searched else ():
        value = shown.settings.get(setting.name)
        if setting.within and value is not None:
            params[setting.name] = str(value) if setting.choices else value, _distribution(setting)
    return create_trial(
        state=trial.state,
        values=[shown.values[data.goals.index(goal)] for goal in goals] if shown.values else None,
        params={prefix + name: value for name, (value, _) in params.items()},
        distributions={prefix + name: distribution for name, (_, distribution) in params.items()},
        user_attrs={"run": run_id} if (run_id := record_of(trial).run_id) else {},
        intermediate_values=dict(shown.curve),
        constraints=trial.constraints,
    )


def _sampled(data: StudyData, trial: FrozenTrial) -> dict[str, tuple[Any, BaseDistribution]]:
    """Value and distribution of each setting that was sampled for a trial, by short name."""
    recipe, within = recipe_of(trial), searched_within(trial)
    params = {}
    for key, value in trial.params.items():
        path = key.removeprefix(f"{recipe}.") if recipe else key
        if key == RECIPE or path in within:
            continue
        distribution = trial.distributions[key]
        if isinstance(distribution, CategoricalDistribution):
            words = [plain(choice) for choice in distribution.choices]
            if len(set(words)) == len(words):
                value, distribution = plain(value), CategoricalDistribution(words)
        params[data.names[recipe][path]] = value, distribution
    return params


def _distribution(setting: Setting) -> BaseDistribution:
    if setting.choices:
        return CategoricalDistribution(setting.choices)
    return FloatDistribution(setting.low, setting.high, log=setting.log)
