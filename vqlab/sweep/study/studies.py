"""The studies of a sweep: one per recipe, which share objective, images and number of trials."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
from optuna.pruners import MedianPruner
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vqlab.data import Splits
from vqlab.sweep.events import TrialKey
from vqlab.sweep.study.policy import STARTUP, n_done
from vqlab.types import UserError

Direction = Literal["maximize", "minimize"]

TESTED_ON_REQUEST = "tested_on_request"
"""Attribute of a study: numbers of trials to score on test in addition to the winner."""
FINGERPRINT = "data_fingerprint"
"""Attribute of a sweep: fingerprint of its images."""
PRESET = "vqlab:preset"
"""Attribute of a sweep: the preset of its recipes."""
_SWEEP, _RECIPE = "sweep", "recipe"
"""Attributes of a study of a comparison: name of the sweep, recipe."""


@dataclass(frozen=True)
class Studies:
    """The studies of one sweep."""

    name: str
    by_recipe: Mapping[str, optuna.Study]
    """Studies by recipe; the empty name in a sweep of one recipe."""

    def __getitem__(self, recipe: str) -> optuna.Study:
        return self.by_recipe[recipe]

    @property
    def _first(self) -> optuna.Study:
        return next(iter(self.by_recipe.values()))

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the sweep. The study of the first recipe stores them."""
        return self._first.user_attrs

    def set_attribute(self, name: str, value: Any) -> None:
        """Store an attribute of the sweep."""
        self._first.set_user_attr(name, value)

    @property
    def directions(self) -> list[StudyDirection]:
        return self._first.directions

    @property
    def maximize(self) -> bool:
        """Whether a higher value of the first objective is better."""
        return self.directions[0] == StudyDirection.MAXIMIZE

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials of all studies (with these states) in the order of their start; those
        of one study by number."""
        trials = [
            trial
            for study in self.by_recipe.values()
            for trial in study.get_trials(deepcopy=False, states=states or None)
        ]
        if len(self.by_recipe) > 1:
            trials.sort(key=lambda trial: trial.datetime_start or datetime.max)
        return trials

    def find(self, key: TrialKey) -> FrozenTrial | None:
        """Return a trial by its key, None if there is none."""
        if key.recipe not in self.by_recipe:
            return None
        trials = self[key.recipe].get_trials(deepcopy=False)
        return trials[key.number] if 0 <= key.number < len(trials) else None

    def n_done(self) -> int:
        """Return the number of trials that count towards the target."""
        return n_done(self.trials())

    def refuse_other_images(self, splits: Splits) -> None:
        """Raise UserError if these are not the images of the sweep."""
        fingerprint = self.attributes.get(FINGERPRINT, splits.fingerprint)
        if splits.fingerprint != fingerprint:
            raise UserError(
                f"the images in {splits.root} differ from those of study {self.name} (fingerprint "
                f"{splits.fingerprint[:12]} instead of {fingerprint[:12]}); copy the same images "
                "there."
            )


def open_studies(
    storage: BaseStorage, name: str, recipes: Sequence[str], directions: Sequence[Direction]
) -> Studies:
    """Return the studies of a sweep, created if they do not exist.

    The study of one recipe (the empty name) has the name of the sweep, those of several
    `<name>-<recipe>`.
    """
    studies = {}
    for recipe in recipes:
        study = optuna.create_study(
            study_name=f"{name}-{recipe}" if recipe else name,
            storage=storage,
            directions=list(directions),
            load_if_exists=True,
            pruner=_pruner(),
        )
        if recipe and _SWEEP not in study.user_attrs:
            study.set_user_attr(_RECIPE, recipe)
            study.set_user_attr(_SWEEP, name)
        studies[recipe] = study
    return Studies(name, studies)


def load_studies(storage: BaseStorage, name: str) -> Studies:
    """Return the studies of a sweep. Raises UserError that lists the existing ones."""
    names = optuna.get_all_study_names(storage)
    if name in names:
        study = _load(storage, name)
        if _SWEEP not in study.user_attrs:
            return Studies(name, {"": study})
        name = study.user_attrs[_SWEEP]  # a study of a comparison stands for the comparison
    studies = [_load(storage, each) for each in names if each.startswith(f"{name}-")]
    studies = [study for study in studies if study.user_attrs.get(_SWEEP) == name]
    if not studies:
        near = difflib.get_close_matches(name, names, n=3) or sorted(names)[-5:]
        listed = f"there are {', '.join(near)}" if near else "the store has no studies"
        raise UserError(f"there is no study {name!r}; {listed}.")
    return Studies(name, {study.user_attrs[_RECIPE]: study for study in studies})


def sweep_of(study: str, attributes: Mapping[str, Any]) -> str:
    """Return the name of the sweep that a study with these user attributes belongs to."""
    return str(attributes.get(_SWEEP, study))


def _load(storage: BaseStorage, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage, pruner=_pruner())


def _pruner() -> MedianPruner:
    return MedianPruner(n_startup_trials=STARTUP, n_min_trials=3)


def siblings(storage: BaseStorage, studies: Studies, base: str) -> list[str]:
    """Return the names of other sweeps that differ only in space, settings or data.

    base: the name without its hash.
    """
    recipe = next(iter(studies.by_recipe))
    suffix = f"-{recipe}" if recipe else ""
    names = optuna.get_all_study_names(storage)
    sweeps = {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    return sorted(n for n in sweeps if n != studies.name and n.rpartition("-")[0] == base)
