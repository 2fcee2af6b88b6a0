"""Worker: run trials until the sweep reaches its target number of trials.

Any number of workers, on any machines, can run trials of one sweep. They share only the stores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from vqlab.data import load_dataset
from vqlab.recipes import Data
from vqlab.sweep.comparison import Comparison
from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import OnEvent, TrialFinished
from vqlab.sweep.study import halving, policy
from vqlab.sweep.study.execution import RunTrial, run_trial
from vqlab.sweep.study.record import key_of, note, record_of, row, stored, was_interrupted
from vqlab.sweep.study.retry import ask, reconcile, this_worker
from vqlab.sweep.study.storage import opened_storage, storage_address, study_lock
from vqlab.sweep.study.studies import Studies, load_studies
from vqlab.sweep.sync.mirror import Mirror
from vqlab.sweep.trial.objective import TrialRunner
from vqlab.sweep.workers.task import SEED, TARGET, TRIALS_AT_START, load_task
from vqlab.tracking import Tracker
from vqlab.types import UserError

_FAILURES = 3
"""Number of failed trials that ends a call if none succeeds."""
_MAX_UNDELETED = 8
"""Maximum number of ended trials whose files have not been deleted."""
_PAUSE = 0.5
"""Seconds between polls of a sweep whose last trials run on other workers."""


def join(
    name: str,
    tracker: Tracker,
    *,
    data: Data = None,
    emit: OnEvent = lambda event: None,
    timeout: float | None = None,
) -> None:
    """Run trials of an existing sweep, on any machine, until it reaches its target.

    data: folder of the images, if it differs on this machine. Raises UserError if the sweep or the
    images do not exist or differ, and if all trials fail.
    """
    started = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = storage_address(tracker.root)
    with opened_storage(address) as storage:
        studies = load_studies(storage, name)
        task, parent = load_task(studies, tracker)
        comparison = task.comparison(data)
        splits = load_dataset(comparison.first.config.data)
        studies.refuse_other_images(splits)
        context = SweepContext(comparison, splits, studies, parent, tracker, emit)
        deadline = float("inf") if timeout is None else started + timeout
        work(context, Mirror(context), storage, deadline)


def work(
    context: SweepContext, mirror: Mirror, storage: RDBStorage, deadline: float = float("inf")
) -> None:
    """Run trials of a sweep; see `run_trials`."""

    def run(trial: optuna.Trial) -> float | tuple[float, ...]:
        return TrialRunner(context, mirror, trial).run()

    def next_recipe() -> str:
        return _queue_next(context.studies, context.comparison)

    def ended(trial: FrozenTrial, target: int) -> None:
        _ended(context, mirror, trial, target)

    try:
        run_trials(
            context.studies, storage, run, next_recipe=next_recipe, ended=ended, deadline=deadline
        )
    finally:
        mirror.clean_up_own(context.studies.trials(), most=0)


def run_trials(
    studies: Studies,
    storage: RDBStorage,
    run: RunTrial,
    *,
    next_recipe: Callable[[], str],
    ended: Callable[[FrozenTrial, int], None] = lambda trial, target: None,
    deadline: float = float("inf"),
) -> None:
    """Run trials until the sweep reaches its target, and wait for those of other workers.

    next_recipe: return the recipe of the next trial; called with the lock of the sweep held.
    ended: called with a trial that ended, and the target.
    deadline: on `time.monotonic`; no trial starts after it.
    Raises UserError if trials fail and none succeeds.
    """
    while time.monotonic() < deadline:
        study = None
        with study_lock(storage, studies.name):
            todo, target = _next_step(studies, storage)
            if todo == "nothing":
                return
            if todo == "start":
                recipe = next_recipe()
                study = studies[recipe]
                trial = _new_trial(study, studies.attributes[SEED], recipe)
        if study is None:
            time.sleep(_PAUSE)
        else:
            ended(run_trial(study, storage, trial, run), target)


def _new_trial(study: optuna.Study, seed: int, recipe: str) -> optuna.Trial:
    """Return a new or queued trial, assigned to this worker."""
    trials = study.get_trials(deepcopy=False)
    started = sum(trial.state != TrialState.WAITING for trial in trials)
    study.sampler = policy.sampler(seed, started, recipe)
    trial = ask(study)
    note(trial, worker=this_worker())
    return trial


def _ended(context: SweepContext, mirror: Mirror, trial: FrozenTrial, target: int) -> None:
    trials = context.studies.trials()
    best, done = context.rule.winner(None, trials), policy.n_done(trials)
    mirror.update(trial)
    mirror.clean_up_own(trials, most=_MAX_UNDELETED)
    context.emit(TrialFinished(row(trial), row(best) if best else None, done, target))
    if best is not None:
        step = [key_of(each) for each in trials].index(key_of(trial))
        context.parent.log_metrics({context.comparison.objective: best.values[0]}, step=step)


def _next_step(
    studies: Studies, storage: RDBStorage
) -> tuple[Literal["start", "wait", "nothing"], int]:
    """Return the next action and the target."""
    target = studies.attributes[TARGET]
    for study in studies.by_recipe.values():
        reconcile(study, storage)
    trials = studies.trials()
    done = policy.n_done(trials)
    if done >= target:
        return "nothing", target
    _raise_if_all_failed(trials[studies.attributes[TRIALS_AT_START] :], target)
    under_way = sum(trial.state == TrialState.RUNNING for trial in trials)
    return "start" if done + under_way < target else "wait", target


def _raise_if_all_failed(trials: list[FrozenTrial], target: int) -> None:
    failed = [
        trial for trial in trials if trial.state == TrialState.FAIL and not was_interrupted(trial)
    ]
    succeeded = policy.n_done(trials)
    if len(failed) >= _FAILURES and not succeeded or len(failed) > max(target, 10):
        raise UserError(
            f"the sweep stopped: {len(failed)} of its {len(failed) + succeeded} trials failed, the "
            f"last one because: {row(failed[-1]).reason} Fix the cause and re-run the command."
        )


def _queue_next(studies: Studies, comparison: Comparison) -> str:
    """Queue the next trial in the study of its recipe, and return that recipe.

    The first trial of each recipe has the recipe's own settings. A queued retry comes first.
    """
    waiting = studies.trials(TrialState.WAITING)
    if waiting:
        return key_of(waiting[0]).recipe
    by_recipe = {r: s.get_trials(deepcopy=False) for r, s in studies.by_recipe.items()}
    turns = {recipe: _n_turns(trials) for recipe, trials in by_recipe.items()}

    def loss(recipe: str) -> float:
        best = policy.best_of(policy.candidates(by_recipe[recipe]), studies.maximize)
        sign = -1 if studies.maximize else 1
        return math.inf if best is None else sign * float(best.values[0])

    recipe = halving.next_recipe(list(comparison.plans), turns, loss)
    plan = comparison[recipe]
    params = {} if turns[recipe] else plan.recipe_params()
    as_in_recipe = not turns[recipe] and params.keys() == plan.sampled.keys()
    attrs = {"recipe": recipe, "queued": params, "as_in_recipe": as_in_recipe}
    attrs = {name: value for name, value in attrs.items() if value}
    if attrs:
        studies[recipe].enqueue_trial(params, user_attrs=stored(**attrs))
    return recipe


def _n_turns(trials: list[FrozenTrial]) -> int:
    """Return the number of trials; retried ones count once."""
    retried = {record_of(trial).retry_of for trial in trials}
    return sum(trial.number not in retried for trial in trials)
