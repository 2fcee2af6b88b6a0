"""Sampler and pruner of a study, and which of its trials may win."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from vqlab.data import Splits
from vqlab.sweep.study.record import recipe_of, record_of
from vqlab.types import UserError

Direction = Literal["maximize", "minimize"]
_STARTUP = 5
"""Trials before the sampler models anything and the pruner prunes: budgets are small."""

ASKED = "tested_on_request"
"""Attribute of a study: numbers of the trials that were to be scored on test besides the winner."""
FINGERPRINT = "data_fingerprint"
"""Attribute of a study: which images it is about."""
PRESET = "vqlab:preset"
"""Attribute of a study: the preset that lies over its recipes."""


def open_study(storage: BaseStorage, name: str, *directions: Direction) -> optuna.Study:
    """The study of that name, with a direction for each objective, made where it is not there."""
    return optuna.create_study(
        study_name=name,
        storage=storage,
        directions=list(directions),
        load_if_exists=True,
        pruner=_pruner(),
    )


def load_study(storage: BaseStorage, name: str) -> optuna.Study:
    """The study of that name. Raises UserError that lists those there are."""
    names = optuna.get_all_study_names(storage)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or sorted(names)[-5:]
        listed = f"there are {', '.join(near)}" if near else "there is none in this store"
        raise UserError(f"there is no study {name!r}; {listed}.")
    return optuna.load_study(study_name=name, storage=storage, pruner=_pruner())


def _pruner() -> MedianPruner:
    return _RecipePruner(n_startup_trials=_STARTUP, n_min_trials=3)


def sampler(seed: int, trials_so_far: int) -> TPESampler:
    """A sampler seeded anew for each trial, so that a resumed study does not draw the same points
    again, and a study draws the same whether or not it was stopped in between."""
    word = np.random.SeedSequence([seed, trials_so_far]).generate_state(1)[0]
    return _RecipeSampler(seed=int(word), n_startup_trials=_STARTUP)


def _of_same_recipe(study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
    """Return an in-memory study of the complete and pruned trials of the recipe of `trial`, or
    `study` itself where it has one recipe.

    An epoch of one recipe says nothing about an epoch of another, and among all trials the sampler
    would prefer the settings of the best recipe.
    """
    recipe = recipe_of(trial)
    if not recipe:
        return study
    copy = optuna.create_study(directions=study.directions, storage=InMemoryStorage())
    for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if recipe_of(other) == recipe:
            copy.add_trial(
                create_trial(
                    state=other.state,
                    values=other.values,
                    params=other.params,
                    distributions=other.distributions,
                    intermediate_values=other.intermediate_values,
                    constraints=other.constraints,
                )
            )
    return copy


class _RecipePruner(MedianPruner):
    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return super().prune(_of_same_recipe(study, trial), trial)


class _RecipeSampler(TPESampler):
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(_of_same_recipe(study, trial), trial, name, distribution)


def siblings(storage: BaseStorage, name: str, base: str) -> list[str]:
    """Return the names of the other studies that differ from `name` in space, settings or data
    only."""
    names = optuna.get_all_study_names(storage)
    return sorted(n for n in names if n != name and n.rpartition("-")[0] == base)


def refuse_other_images(study: optuna.Study, splits: Splits) -> None:
    """Raise UserError where these are not the images that the study is about."""
    known = study.user_attrs.get(FINGERPRINT, splits.fingerprint)
    if splits.fingerprint != known:
        raise UserError(
            f"the images in {splits.root} are not those of study {study.study_name} (fingerprint "
            f"{splits.fingerprint[:12]}, the study's is {known[:12]}); copy the same ones here."
        )


def n_done(study: optuna.Study, trials: list[FrozenTrial] | None = None) -> int:
    """Trials that count towards the target: complete or pruned. trials: as read just now."""
    trials = study.get_trials(deepcopy=False) if trials is None else trials
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


def best_of(study: optuna.Study, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the trial with the best value of the first objective, the earliest of equals."""
    sign = -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(trials, key=lambda t: (sign * t.values[0], t.number), default=None)


def best_trial(
    study: optuna.Study, recipe: str | None = None, trials: list[FrozenTrial] | None = None
) -> FrozenTrial | None:
    """Return the best candidate by value alone; see `WinnerRule` for the winner.

    recipe: among the trials of this one alone. trials: as read just now.
    """
    trials = study.get_trials(deepcopy=False) if trials is None else trials
    return best_of(study, candidates(trials, recipe))
