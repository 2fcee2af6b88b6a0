"""Trials and settings of a sweep for the report: short names, plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vqlab.run import short_names
from vqlab.sweep.events import TrialKey
from vqlab.sweep.study.record import key_of, recipe_of, record_of
from vqlab.sweep.study.studies import Studies


@dataclass(frozen=True)
class Goal:
    """One objective of a sweep."""

    name: str
    maximize: bool

    @property
    def direction(self) -> StudyDirection:
        return StudyDirection.MAXIMIZE if self.maximize else StudyDirection.MINIMIZE

    @property
    def label(self) -> str:
        """The name with its direction."""
        return f"{self.name} ({'higher' if self.maximize else 'lower'} is better)"


@dataclass(frozen=True)
class TrialData:
    """One trial."""

    key: TrialKey
    state: str
    """Optuna's name of the state: COMPLETE, PRUNED, FAIL, RUNNING or WAITING."""
    values: tuple[float, ...] = ()
    """One per goal, all finite; empty if the trial has none."""
    settings: Mapping[str, float | str] = field(default_factory=dict)
    """By short name."""
    curve: Mapping[int, float] = field(default_factory=dict)
    """Reported values by epoch."""
    as_recipe: bool = False
    """Whether it has the recipe's own settings."""
    eligible: bool = True
    """False if it violates a constraint, has a dead codebook or is not clearly better than the
    recipe's own settings; it wins only if no trial is eligible."""


@dataclass(frozen=True)
class StudyData:
    """Trials and settings of a sweep. Raises ValueError unless each objective has a name."""

    studies: Studies
    objectives: Sequence[str]
    not_clearly_better: Container[TrialKey] = ()
    """Trials that are not clearly better than their recipe's own settings."""
    winner: TrialKey | None = None
    """The trial that won, if that was decided; else the best eligible value."""
    raw: list[FrozenTrial] = field(init=False)

    def __post_init__(self) -> None:
        directions = self.studies.directions
        if len(self.objectives) != len(directions):
            raise ValueError(
                f"a study of {len(directions)} objectives must have as many names; got "
                f"{list(self.objectives)}"
            )
        object.__setattr__(self, "raw", self.studies.trials())

    @cached_property
    def goals(self) -> list[Goal]:
        maximize = [way == StudyDirection.MAXIMIZE for way in self.studies.directions]
        return [Goal(name, way) for name, way in zip(self.objectives, maximize, strict=True)]

    @cached_property
    def recipes(self) -> list[str]:
        """The names of the compared recipes, sorted; [""] for a sweep of one recipe."""
        return sorted(self.studies.by_recipe)

    @cached_property
    def trials(self) -> list[TrialData]:
        """All trials, in the order of `raw`."""
        return [self._trial(trial) for trial in self.raw]

    def raw_of(self, recipe: str) -> list[FrozenTrial]:
        """Return the trials of one recipe, by number."""
        trials = [trial for trial in self.raw if recipe_of(trial) == recipe]
        return sorted(trials, key=lambda trial: trial.number)

    @cached_property
    def by_key(self) -> dict[TrialKey, TrialData]:
        return {trial.key: trial for trial in self.trials}

    def _trial(self, trial: FrozenTrial) -> TrialData:
        recipe = recipe_of(trial)
        values = tuple(float(value) for value in trial.values or ())
        complete = trial.state == TrialState.COMPLETE and all(map(math.isfinite, values))
        short = self.names[recipe]
        return TrialData(
            key=key_of(trial),
            state=trial.state.name,
            values=values if complete else (),
            settings={short[key]: plain(value) for key, value in settings_of(trial).items()},
            curve={
                epoch: value
                for epoch, value in sorted(trial.intermediate_values.items())
                if math.isfinite(value)
            },
            as_recipe=record_of(trial).as_in_recipe,
            eligible=not record_of(trial).dead_codebook
            and key_of(trial) not in self.not_clearly_better
            and all(value <= 0 for value in trial.constraints.values()),
        )

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """Short names of the settings, by recipe and setting."""
        settings: dict[str, dict[str, None]] = {recipe: {} for recipe in self.recipes}
        for trial in self.raw:
            settings[recipe_of(trial)].update(dict.fromkeys(settings_of(trial)))
        return {recipe: short_names(paths) for recipe, paths in settings.items()}

    @cached_property
    def varied(self) -> dict[str, list[str]]:
        """Short names of the settings in which the complete trials of each recipe differ."""
        values: dict[tuple[str, str], set[float | str]] = {}
        for trial in self.trials:
            for name, value in trial.settings.items() if trial.values else ():
                values.setdefault((trial.key.recipe, name), set()).add(value)
        return {
            recipe: [name for name in names.values() if len(values.get((recipe, name), ())) > 1]
            for recipe, names in self.names.items()
        }

    @cached_property
    def best(self) -> list[TrialData]:
        """The winner, or the best trial, eligible trials first; the Pareto front for several
        objectives."""
        complete = [trial for trial in self.trials if trial.values]
        if len(self.goals) > 1:
            return pareto_front(complete, self.goals)
        if self.winner is not None:
            return [trial for trial in complete if trial.key == self.winner]
        sign = -1 if self.goals[0].maximize else 1
        return sorted(complete, key=lambda t: (not t.eligible, sign * t.values[0]))[:1]


def pareto_front(trials: Sequence[TrialData], goals: Sequence[Goal]) -> list[TrialData]:
    """Return the eligible trials that no eligible trial dominates."""
    signs = [-1.0 if goal.maximize else 1.0 for goal in goals]
    eligible = [trial for trial in trials if trial.values and trial.eligible]
    costs = [[s * v for s, v in zip(signs, t.values, strict=True)] for t in eligible]
    dominated = [
        any(other != cost and all(map(float.__le__, other, cost)) for other in costs)
        for cost in costs
    ]
    return [
        trial for trial, is_dominated in zip(eligible, dominated, strict=True) if not is_dominated
    ]


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return all settings of a trial, sampled and searched within it."""
    return dict(trial.params) | searched_within(trial)


def searched_within(trial: FrozenTrial) -> dict[str, Any]:
    """Return the settings that were searched on the trained detector of a trial."""
    record = record_of(trial)
    settings: dict[str, Any] = {}
    for values in (record.scoring, record.thresholds):
        settings |= values if isinstance(values, Mapping) else {}  # users may write attributes
    return settings


def plain(value: Any) -> float | str:
    """Return a number unchanged and anything else as text: `["error", "context"]` as
    `error+context`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            return str(value)
    if isinstance(value, list | tuple):
        return "+".join(str(part) for part in value) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    return "none" if value is None else str(value)


def value_text(value: Any) -> str:
    """Return `plain` as text, a number with up to six digits."""
    value = plain(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
