"""Worker: run trials until the study reaches its target number of trials.

Any number of workers, on any machines, can run trials of one study. They share only the stores.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vqlab.config import Tree
from vqlab.data import load_dataset
from vqlab.recipes import Data, as_folders
from vqlab.sweep.comparison import Comparison, make_comparison, make_spaces, named
from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import OnEvent, TrialFinished
from vqlab.sweep.space.schema import make_space
from vqlab.sweep.study import policy as studies
from vqlab.sweep.study.halving import next_recipe
from vqlab.sweep.study.record import (
    RECIPE,
    note,
    recipe_of,
    record_of,
    row,
    stored,
    was_interrupted,
)
from vqlab.sweep.study.retry import ask, reconcile, this_worker, trial_id
from vqlab.sweep.study.storage import Heartbeat, StudyLock, opened_storage, storage_address
from vqlab.sweep.sync.mirror import Mirror
from vqlab.sweep.trial.objective import TrialRunner
from vqlab.tracking import Tracker
from vqlab.types import UserError

TASK, PARENT = "task", "mlflow_parent"
"""Attributes of a study: what its workers need to know, and its own run."""
_FAILURES = 3
"""Trials that may fail in one call while none succeeds."""
_UNTIDIED = 8
"""Ended trials whose files may lie about until the next tidying up."""
_PAUSE = 0.5
"""Seconds between looks at a study whose last trials others are at."""


@dataclass(frozen=True)
class Task:
    """What a worker needs to run trials; stored in the study."""

    trees: dict[str, Tree]
    """Of each recipe, by name; of the only one under the empty name."""
    space: Tree
    name: str
    """Of the comparison, where there are several recipes."""
    target: int
    """Total number of trials."""
    seed: int
    begun: int = 0
    """Trials there were when the present call began: its failures are counted from there."""

    def comparison(self, data: Data = None) -> Comparison:
        """What is compared; `data`: where the images lie on this machine."""
        trees = {name: as_folders(data).over(tree) for name, tree in self.trees.items()}
        if "recipes" in self.space:
            return make_comparison(make_spaces(self.space, self.name), trees)
        return make_comparison(make_space(self.space), trees[""])


def join(
    name: str,
    tracker: Tracker,
    *,
    data: Data = None,
    say: OnEvent = lambda event: None,
    timeout: float | None = None,
) -> None:
    """Run trials of an existing study until it reaches its target; on any machine.

    data: the images' folder where it is another one here. Raises UserError for a study or images
    that are not there or others, and for trials that all fail.
    """
    started = time.monotonic()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = storage_address(tracker.root)
    with opened_storage(address) as storage:
        study = studies.load_study(storage, name)
        if TASK not in study.user_attrs:
            raise UserError(
                f"study {name} must be opened by `vqlab sweep`; it has no task (another program or "
                "an older vqlab opened it); run `vqlab sweep` first."
            )
        comparison = Task(**study.user_attrs[TASK]).comparison(data)
        splits = load_dataset(comparison.first.config.data)
        studies.refuse_other_images(study, splits)
        if tracker.get(study.user_attrs[PARENT]) is None:
            raise UserError(
                f"the run of study {name} was deleted; start the study again with `vqlab sweep`."
            )
        parent = tracker.amend(study.user_attrs[PARENT])
        context = SweepContext(comparison, splits, study, parent, tracker, say)
        deadline = float("inf") if timeout is None else started + timeout
        work(context, Mirror(context), storage, deadline)


def work(
    context: SweepContext, mirror: Mirror, storage: RDBStorage, deadline: float = float("inf")
) -> None:
    """`take_trials` of a sweep."""
    try:
        run_trials(
            context.study,
            storage,
            lambda trial: TrialRunner(context, mirror, trial).run(),
            enqueue_next=lambda trials: _enqueue_next(context.study, context.comparison, trials),
            ended=partial(_ended, context, mirror),
            deadline=deadline,
        )
    finally:
        mirror.clean_up_own(context.study.get_trials(deepcopy=False), most=0)


def run_trials(
    study: optuna.Study,
    storage: RDBStorage,
    run: Callable[[optuna.Trial], float | tuple[float, ...]],
    *,
    enqueue_next: Callable[[list[FrozenTrial]], None] = lambda trials: None,
    ended: Callable[[FrozenTrial, int], None] = lambda trial, target: None,
    deadline: float = float("inf"),
) -> None:
    """Run trials until the study has its target, and those of other workers have ended too.

    enqueue_next: called with all trials before one is sampled, under the lock of the study.
    ended: called with a trial that ended, and the target.
    deadline: on `time.monotonic`; no trial starts after it.
    Raises UserError if trials fail and none succeeds.
    """
    while time.monotonic() < deadline:
        trial = None
        with StudyLock(storage, study.study_name):
            task = Task(**study.user_attrs[TASK])
            todo, trials = _todo(study, storage, task)
            if todo == "nothing":
                return
            if todo == "start":
                enqueue_next(trials)
                begun = sum(trial.state != TrialState.WAITING for trial in trials)
                study.sampler = studies.sampler(task.seed, begun)
                trial = _new_trial(study)
        if trial is None:
            time.sleep(_PAUSE)
        else:
            ended(_run_trial(study, storage, trial, run), task.target)


def _new_trial(study: optuna.Study) -> optuna.Trial:
    """Return a new or queued trial, assigned to this worker."""
    trial = ask(study)
    note(trial, worker=this_worker())
    return trial


def _run_trial(
    study: optuna.Study,
    storage: RDBStorage,
    trial: optuna.Trial,
    run: Callable[[optuna.Trial], float | tuple[float, ...]],
) -> FrozenTrial:
    """Run a trial to its end and record its heartbeat meanwhile."""
    values, state = None, TrialState.FAIL
    try:
        with Heartbeat(storage, trial_id(storage, study, trial.number)):
            values, state = run(trial), TrialState.COMPLETE
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    except KeyboardInterrupt:
        study.tell(trial, state=TrialState.FAIL)
        raise
    except Exception:
        pass  # why is noted in the trial
    try:
        return study.tell(trial, values, state, skip_if_finished=True)
    except UpdateFinishedTrialError:  # another worker failed it for want of a heartbeat
        return study.get_trials(deepcopy=False)[trial.number]


def _ended(context: SweepContext, mirror: Mirror, trial: FrozenTrial, target: int) -> None:
    study = context.study
    trials = study.get_trials(deepcopy=False)
    best, done = context.rule.winner(None, trials), studies.n_done(study, trials)
    mirror.update(trial)
    mirror.clean_up_own(trials, most=_UNTIDIED)
    context.say(TrialFinished(row(trial), row(best) if best else None, done, target))
    if best is not None:
        figure = {context.comparison.objective: best.values[0]}
        context.parent.log_metrics(figure, step=trial.number)


def _todo(
    study: optuna.Study, storage: RDBStorage, task: Task
) -> tuple[Literal["start", "wait", "nothing"], list[FrozenTrial]]:
    """Return what to do next, and all trials."""
    trials = study.get_trials(deepcopy=False)
    if reconcile(study, storage, trials):
        trials = study.get_trials(deepcopy=False)
    done = studies.n_done(study, trials)
    if done >= task.target:
        return "nothing", trials
    _stop_if_hopeless(trials[task.begun :], task.target)
    under_way = sum(trial.state == TrialState.RUNNING for trial in trials)
    return ("start" if done + under_way < task.target else "wait"), trials


def _stop_if_hopeless(trials: list[FrozenTrial], target: int) -> None:
    failed = [
        trial for trial in trials if trial.state == TrialState.FAIL and not was_interrupted(trial)
    ]
    succeeded = sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)
    if len(failed) >= _FAILURES and not succeeded or len(failed) > max(target, 10):
        raise UserError(
            f"the sweep stopped: {len(failed)} of its {len(failed) + succeeded} trials failed, the "
            f"last one because: {row(failed[-1]).reason} Fix the cause and re-run the command."
        )


def _enqueue_next(study: optuna.Study, comparison: Comparison, trials: list[FrozenTrial]) -> None:
    """Queue a trial of the next recipe; the first of each has the recipe's own settings."""
    if any(trial.state == TrialState.WAITING for trial in trials):
        return
    repeated = {record_of(trial).retry_of for trial in trials}
    turns = Counter(recipe_of(t) for t in trials if t.number not in repeated)

    def loss(name: str) -> float:
        best = studies.best_of(study, studies.candidates(trials, name))
        sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
        return math.inf if best is None else sign * float(best.values[0])

    recipe = next_recipe(list(comparison.plans), turns, loss)
    fixed: dict[str, Any] = {RECIPE: recipe} if recipe else {}
    if not turns[recipe]:
        plan = comparison.plans[recipe]
        own = plan.own_params()
        marks = stored(as_in_recipe=True) if own.keys() == plan.sampled.keys() else {}
        study.enqueue_trial({**fixed, **named(recipe, own)}, user_attrs=marks)
    elif recipe:
        study.enqueue_trial(fixed)
