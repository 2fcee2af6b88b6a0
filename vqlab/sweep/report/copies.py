"""In-memory copies of studies for Optuna's importance evaluators and plots."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from vqlab.sweep.report.study_data import Goal, Setting, StudyData, plain, searched_within
from vqlab.sweep.study.record import key_of, recipe_of, record_of


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
    data: StudyData, recipe: str, goals: Sequence[Goal], searched: bool = False
) -> optuna.Study:
    """Copy the study of one recipe. Settings have short names and choices are text.

    `searched` adds the settings that were searched within each trial. Trials keep their numbers:
    those that are neither complete nor pruned are copied as failed trials.
    """
    with quiet():
        name, directions = recipe or data.studies.name, [goal.direction for goal in goals]
        study = optuna.create_study(study_name=name, directions=directions)
        for trial in data.raw_of(recipe):
            study.add_trial(
                _trial_copy(data, trial, goals, searched)
                if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
                else create_trial(state=TrialState.FAIL)
            )
    return study


def values_copy(data: StudyData) -> optuna.Study:
    """Copy the values of the complete trials of all recipes into one study, without settings.

    Their attribute `trial` is the key of the trial.
    """
    with quiet():
        study = optuna.create_study(directions=[goal.direction for goal in data.goals])
        for trial, raw in zip(data.trials, data.raw, strict=True):
            if trial.values:
                attrs = {"trial": str(trial.key)}
                study.add_trial(
                    create_trial(values=trial.values, user_attrs=attrs, constraints=raw.constraints)
                )
    return study


def _trial_copy(
    data: StudyData, trial: FrozenTrial, goals: Sequence[Goal], searched: bool
) -> FrozenTrial:
    copy = data.by_key[key_of(trial)]
    if trial.state == TrialState.COMPLETE and not copy.values:  # an infinite value
        return create_trial(state=TrialState.FAIL)
    params = _sampled(data, trial)
    for setting in data.settings[copy.key.recipe] if searched else ():
        value = copy.settings.get(setting.name)
        if setting.within and value is not None:
            params[setting.name] = str(value) if setting.choices else value, _distribution(setting)
    return create_trial(
        state=trial.state,
        values=[copy.values[data.goals.index(goal)] for goal in goals] if copy.values else None,
        params={name: value for name, (value, _) in params.items()},
        distributions={name: distribution for name, (_, distribution) in params.items()},
        user_attrs={"run": run_id} if (run_id := record_of(trial).run_id) else {},
        intermediate_values=dict(copy.curve),
        constraints=trial.constraints,
    )


def _sampled(data: StudyData, trial: FrozenTrial) -> dict[str, tuple[Any, BaseDistribution]]:
    """Return value and distribution of each sampled setting of a trial, by short name."""
    names, within = data.names[recipe_of(trial)], searched_within(trial)
    params = {}
    for path, value in trial.params.items():
        if path in within:
            continue
        distribution = trial.distributions[path]
        if isinstance(distribution, CategoricalDistribution):
            words = [plain(choice) for choice in distribution.choices]
            if len(set(words)) == len(words):
                value, distribution = plain(value), CategoricalDistribution(words)
        params[names[path]] = value, distribution
    return params


def _distribution(setting: Setting) -> BaseDistribution:
    if setting.choices:
        return CategoricalDistribution(setting.choices)
    return FloatDistribution(setting.low, setting.high, log=setting.log)
