"""A study as pictures and tables show it: short names, words for choices, plain numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vqlab.plots.slices import Setting
from vqlab.plots.trials import Goal, Trial
from vqlab.run import short_names
from vqlab.sweep.study import DEAD, RECIPE, recipe_of

FOUND = ("scoring", "thresholds")
"""Attributes of a trial with the settings that were searched within it: setting to value."""


@dataclass(frozen=True)
class Shown:
    """A study's trials and settings, for pictures."""

    study: optuna.Study
    objectives: Sequence[str]
    not_clearly_better: Container[int] = ()
    """Numbers of the trials that do not replace their recipe's own trial."""
    raw: list[FrozenTrial] = field(init=False)

    def __post_init__(self) -> None:
        if len(self.objectives) != len(self.study.directions):
            raise ValueError(
                f"a study of {len(self.study.directions)} objectives must have as many names; got "
                f"{list(self.objectives)}"
            )
        object.__setattr__(self, "raw", self.study.get_trials(deepcopy=False))

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.study_name

    @cached_property
    def goals(self) -> list[Goal]:
        """The objectives, and which way each is better."""
        ways = [way == StudyDirection.MAXIMIZE for way in self.study.directions]
        return [Goal(name, way) for name, way in zip(self.objectives, ways, strict=True)]

    @cached_property
    def recipes(self) -> list[str]:
        """The recipes that the study compares; one empty name where it is of one."""
        return sorted({recipe_of(trial) for trial in self.raw})

    @cached_property
    def trials(self) -> list[Trial]:
        """All trials, settings by their short names."""
        return [self._trial(trial) for trial in self.raw]

    def _trial(self, trial: FrozenTrial) -> Trial:
        recipe = recipe_of(trial)
        values = [float(value) for value in trial.values or ()]
        sound = trial.state == TrialState.COMPLETE and all(map(math.isfinite, values))
        short = self.names[recipe]
        return Trial(
            number=trial.number,
            state=trial.state.name,
            values=tuple(values) if sound else (),
            recipe=recipe,
            settings={short[key]: plain(value) for key, value in settings_of(trial).items()},
            curve={
                epoch: value
                for epoch, value in sorted(trial.intermediate_values.items())
                if math.isfinite(value)
            },
            eligible=DEAD not in trial.user_attrs
            and trial.number not in self.not_clearly_better
            and all(value <= 0 for value in trial.constraints.values()),
        )

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """The short name of every setting (without its recipe's name), for each recipe."""
        found: dict[str, dict[str, None]] = {recipe: {} for recipe in self.recipes}
        for trial in self.raw:
            found[recipe_of(trial)].update(dict.fromkeys(settings_of(trial)))
        return {recipe: short_names(settings) for recipe, settings in found.items()}

    @cached_property
    def settings(self) -> dict[str, list[Setting]]:
        """Of each recipe the settings in which its complete trials differ."""
        return {recipe: self._settings(recipe) for recipe in self.recipes}

    def _settings(self, recipe: str) -> list[Setting]:
        done = [t for t in self.raw if recipe_of(t) == recipe and self.trials[t.number].values]
        axes = []
        for setting, name in self.names[recipe].items():
            values = [own[setting] for own in map(settings_of, done) if setting in own]
            if len({plain(value) for value in values}) < 2:
                continue
            drawn = {
                key.removeprefix(f"{recipe}.") if recipe else key: distribution
                for trial in done
                for key, distribution in trial.distributions.items()
            }
            within = any(setting in own for own in map(found_within, done))
            distribution = None if within else drawn.get(setting)
            axes.append(_axis(name, values, distribution, within))
        return axes


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """All settings of a trial without its recipe's name before them, drawn and found within it."""
    prefix = f"{recipe_of(trial)}." if recipe_of(trial) else ""
    drawn = {key: value for key, value in trial.params.items() if key != RECIPE}
    own = {key.removeprefix(prefix): value for key, value in drawn.items()}
    return own | found_within(trial)


def found_within(trial: FrozenTrial) -> dict[str, Any]:
    """The settings that were searched within a trial, on what it had trained."""
    prefix = f"{recipe_of(trial)}." if recipe_of(trial) else ""
    found: dict[str, Any] = {}
    for kind in FOUND:
        attribute = trial.user_attrs.get(kind)
        if isinstance(attribute, Mapping):
            found |= {str(key).removeprefix(prefix): value for key, value in attribute.items()}
    return found


def plain(value: Any) -> float | str:
    """A number as it is, all else as a short word: `["error", "context"]` as `error+context`."""
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


def _axis(name: str, values: Sequence[Any], distribution: Any, found: bool) -> Setting:
    if isinstance(distribution, CategoricalDistribution):
        seen = list(dict.fromkeys([*map(plain, distribution.choices), *map(plain, values)]))
        return Setting(name, choices=_ordered(seen), found=found)
    if isinstance(distribution, FloatDistribution | IntDistribution):
        low, high = min(distribution.low, *values), max(distribution.high, *values)
        return Setting(name, low, high, distribution.log and low > 0, found=found)
    words = list(dict.fromkeys(map(plain, values)))
    numbers = [word for word in words if isinstance(word, int | float) and math.isfinite(word)]
    if len(numbers) < len(words):
        return Setting(name, choices=_ordered(words), found=found)
    low, high = min(numbers), max(numbers)
    return Setting(name, low, high, low > 0 and high > 10 * low, found=found)


def _ordered(words: Sequence[float | str]) -> tuple[str, ...]:
    """Choices as words: numbers by size, all else as it comes."""
    if all(isinstance(word, int | float) for word in words):
        words = sorted(words)
    return tuple(str(word) for word in words)
