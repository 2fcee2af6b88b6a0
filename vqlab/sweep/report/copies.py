"""In-memory copies of studies for Optuna's importance evaluators and plots."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from vqlab.sweep.report.study_data import Goal, StudyData, plain, searched_within
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
        within = _within(data, recipe) if searched else {}
        for trial in data.raw_of(recipe):
            study.add_trial(
                _trial_copy(data, trial, goals, within)
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
    data: StudyData,
    trial: FrozenTrial,
    goals: Sequence[Goal],
    within: Mapping[str, BaseDistribution],
) -> FrozenTrial:
    copy = data.by_key[key_of(trial)]
    if trial.state == TrialState.COMPLETE and not copy.values:  # an infinite value
        return create_trial(state=TrialState.FAIL)
    params = _sampled(data, trial)
    for name, distribution in within.items():
        if (value := copy.settings.get(name)) is not None:
            is_text = isinstance(distribution, CategoricalDistribution)
            params[name] = str(value) if is_text else value, distribution
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


def _within(data: StudyData, recipe: str) -> dict[str, BaseDistribution]:
    """Return the distribution of each varied setting that was searched within the trials."""
    searched = {path for trial in data.raw_of(recipe) for path in searched_within(trial)}
    within: dict[str, BaseDistribution] = {}
    for name in {data.names[recipe][path] for path in searched} & {*data.varied[recipe]}:
        trials = (trial for trial in data.trials if trial.key.recipe == recipe)
        values = [trial.settings[name] for trial in trials if name in trial.settings]
        numbers = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
        if len(numbers) < len(values):
            within[name] = CategoricalDistribution([*dict.fromkeys(map(str, values))])
        else:
            low, high = min(numbers), max(numbers)
            within[name] = FloatDistribution(low, high, log=low > 0 and high > 10 * low)
    return within
