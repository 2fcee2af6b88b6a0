"""The study: what it draws and prunes, which trials count, what killed workers left behind."""

from __future__ import annotations

import difflib
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, InMemoryStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial

from vqlab.data import Splits
from vqlab.tracking import owner_is_gone, owner_tags
from vqlab.types import UserError

Direction = Literal["maximize", "minimize"]
_CHAIN = 5
"""A trial that ends its process this often in a row is not tried again."""
_STARTUP = 5
"""Trials before the sampler models anything and the pruner prunes: budgets are small."""

RUN_ID, INTERRUPTED, RETRY_OF, DEAD, BEYOND, REASON, WORKER = (
    "mlflow_run_id", "interrupted", "retry_of", "dead_codebook", "beyond_limit", "reason", "worker",
)  # fmt: skip
ASKED = "tested_on_request"
"""Attribute of a study: numbers of the trials that were to be scored on test besides the winner."""
FINGERPRINT = "data_fingerprint"
"""Attribute of a study: which images it is about."""
AS_RECIPE = "as_in_recipe"
"""Attribute of a trial whose settings are all the recipe's own."""
SAME_AS = "same_as"
"""Attribute of a trial: the number of the trial that trained and scored exactly the same."""
PRESET = "vqlab:preset"
"""Attribute of a study: the preset that lies over its recipes."""
RECIPE = "recipe"
"""What a trial draws first where a study compares several recipes."""


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


def recipe_of(trial: FrozenTrial) -> str:
    """The recipe that a trial drew, or is to draw; empty in a study of one recipe."""
    queued = trial.system_attrs.get("fixed_params", {})
    return str(trial.params.get(RECIPE, queued.get(RECIPE, "")))


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


def settled(study: optuna.Study, trials: list[FrozenTrial] | None = None) -> int:
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
    done = [t for t in done if BEYOND not in t.user_attrs] or done
    return [t for t in done if DEAD not in t.user_attrs] or done


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


def was_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial ended because its worker did, and not by a fault of its own."""
    return _interrupted(trial.state, trial.user_attrs)


def _interrupted(state: TrialState, attrs: Mapping[str, Any]) -> bool:
    return state == TrialState.FAIL and (INTERRUPTED in attrs or REASON not in attrs)


def reason_of(state: TrialState, attrs: Mapping[str, Any]) -> str:
    """Why a trial ended so, or what is to be held against it; empty where there is nothing."""
    known = attrs.get(REASON) or attrs.get(BEYOND) or attrs.get(DEAD)
    return str(known or ("interrupted" if _interrupted(state, attrs) else ""))


def state_tags(
    state: TrialState, values: Sequence[float] | None, attrs: Mapping[str, Any]
) -> dict[str, str]:
    """What the run of a trial that ended says of it, as tags."""
    tags = {"optuna.state": state.name}
    reason = reason_of(state, attrs)
    if reason:
        tags["vqlab.reason"] = reason
    if values and state == TrialState.COMPLETE:
        tags["vqlab.value"] = repr(values[0])
    return tags


def this_worker() -> dict[str, str]:
    """Who is at a trial: a thread of a process, which is at one at a time."""
    return {**owner_tags(), "vqlab.thread": str(threading.get_ident())}


def ask(study: optuna.Study) -> optuna.Trial:
    """Create a trial, or take the next one that is queued."""
    with warnings.catch_warnings():  # Optuna expects heartbeats in Study.optimize only
        warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")
        return study.ask()


def trial_id(storage: BaseStorage, study: optuna.Study, number: int) -> int:
    """Return the storage's ID of a trial."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, number)


def reconcile(
    study: optuna.Study, storage: BaseStorage, trials: list[FrozenTrial] | None = None
) -> list[int]:
    """Mark running trials without a live worker as failed, and queue each for one retry.

    Call it within a `Turn`: a worker that is sampling a trial has not named itself in it yet. Also
    fails trials without a recent heartbeat, and trials that the calling thread left behind.
    Returns the numbers of the interrupted trials that were queued. trials: as read in this turn.
    """
    trials = study.get_trials(deepcopy=False) if trials is None else trials
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in running:
        if _left(trial.user_attrs.get(WORKER)):
            try:
                at = trial_id(storage, study, trial.number)
                storage.set_trial_user_attr(at, INTERRUPTED, True)
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            except UpdateFinishedTrialError:  # it ended just now
                continue
    if running:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
    queued = []
    for trial in trials:
        if was_interrupted(trial) and retry(study, trial):
            queued.append(trial.number)
    return queued


def to_be_repeated(study: optuna.Study) -> list[int]:
    """Numbers of the interrupted trials whose repetition has not begun."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [t.user_attrs[RETRY_OF] for t in waiting if RETRY_OF in t.user_attrs]


def _left(worker: dict[str, str] | None) -> bool:
    """Whether the worker of a running trial is surely not at it."""
    if worker is None or owner_is_gone(worker):
        return True
    here = this_worker()
    return all(worker.get(key) == here[key] for key in ("vqlab.host", "vqlab.pid", "vqlab.thread"))


def retry(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Queue an interrupted trial's settings again, once; says whether it did. In a `Turn`."""
    trials = study.get_trials(deepcopy=False)
    if any(t.user_attrs.get(RETRY_OF) == trial.number for t in trials):
        return False
    if _attempts(trials, trial) >= _CHAIN:
        return False
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    kept = {AS_RECIPE: True} if trial.user_attrs.get(AS_RECIPE) else {}
    study.enqueue_trial(params, user_attrs={RETRY_OF: trial.number, **kept})
    return True


def _attempts(trials: list[FrozenTrial], trial: FrozenTrial) -> int:
    count, number = 1, trial.user_attrs.get(RETRY_OF)
    while number is not None:
        count, number = count + 1, trials[number].user_attrs.get(RETRY_OF)
    return count
