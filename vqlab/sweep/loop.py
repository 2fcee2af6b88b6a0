"""The sweep: open or find the study, run trials up to the target, judge the winner once on test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from vqlab.config import Tree, dump, flatten, merge, nest
from vqlab.data import Splits, load_dataset
from vqlab.run import each_model, experiment_of, resolve
from vqlab.sweep import study as studies
from vqlab.sweep.events import OnEvent, StudyOpened, SweepResult, TrialFinished
from vqlab.sweep.finish import finish
from vqlab.sweep.project import project, project_all, row, tidy
from vqlab.sweep.space import Plan, Space, plan
from vqlab.sweep.trial import Objective
from vqlab.tracking import Run, Tracker
from vqlab.types import UserError

_FAILURES = 3
"""Trials that may fail in one call while none succeeds."""


class Interrupted(KeyboardInterrupt):
    """The sweep was told to stop (Ctrl-C, SIGTERM), all is consistent; its text says what next."""


def sweep(
    tree: Tree,
    space: Space,
    tracker: Tracker,
    *,
    trials: int,
    seed: int = 0,
    preset: str = "",
    on_event: OnEvent = lambda event: None,
    timeout: float | None = None,
    results: Path = Path("results"),
) -> SweepResult:
    """Search `space` around the recipe `tree` until the study has `trials` trials in all.

    Called again it goes on from there, then only gives the result. The same space, settings and
    data are the same study; `preset` is part of its name. `timeout`: seconds after which no
    further trial is started. Raises UserError for what can be known beforehand, for a study that
    another process sweeps, for one whose trials all fail; Interrupted on Ctrl-C.
    """
    started = time.monotonic()
    checked = _plan_for_one_model(space, tree)
    splits = load_dataset(checked.config.data)
    name = checked.study_name(splits, preset)
    database = tracker.root / "optuna.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with studies.only_one(tracker.root / "locks", name), studies.store_errors(database):
        study = studies.open_study(
            studies.open_storage(database),
            name,
            space.direction,
            warmup=_warmup(space, checked.config.training.epochs),
        )
        notes = _notes(study, checked.base_name(splits, preset))
        link = tracker.study_link(
            experiment_of(splits), name, space.objective, space.direction == "minimize"
        )
        done = studies.settled(study)
        on_event(StudyOpened(name, link, space.objective, done, trials, notes))
        parent = _parent(study, tracker, checked, splits, link)
        objective = Objective(checked, splits, study, parent, tracker, on_event)
        project_all(objective)
        if done < trials:
            with _running(objective, trials):
                deadline = float("inf") if timeout is None else started + timeout
                _run_trials(objective, trials, seed, deadline)
        return finish(objective, trials, link, results, started)


def _warmup(space: Space, epochs: int) -> int:
    """Epochs before which nothing is pruned: the first of several validations says too little."""
    return space.validate_every(epochs) + 1 if space.validations > 1 else 0


def _plan_for_one_model(space: Space, tree: Tree) -> Plan:
    models = each_model(resolve(tree))
    if len(models) != 1:
        raise UserError(
            f"a sweep must be about one model; got {len(models)} categories: sweep them one by "
            "one, or as one model with data.joint=true."
        )
    categories = list(models[0].data.categories)
    return plan(space, merge(tree, nest("data.categories", categories)))


def _notes(study: optuna.Study, base: str) -> tuple[str, ...]:
    """Queue what was interrupted, and say what a user would want to know before it goes on."""
    notes = []
    others = studies.siblings(study, base)
    if others and not study.get_trials(deepcopy=False):
        notes.append(
            f"this is a new study: its space, settings or data differ from those of "
            f"{', '.join(others)}."
        )
    queued = studies.reconcile(study)
    if queued:
        numbers = ", ".join(map(str, queued))
        notes.append(f"interrupted before, tried again: trial {numbers}.")
    return tuple(notes)


def _parent(study: optuna.Study, tracker: Tracker, checked: Plan, splits: Splits, link: str) -> Run:
    """The study's own run; found by its tag where the one who made it was killed at once."""
    kind = {"vqlab.kind": "study", "vqlab.study": study.study_name}
    known = tracker.runs(tags=kind)
    if known:
        return tracker.amend(known[-1].run_id)
    params = flatten(dump(checked.config))
    parent = tracker.start(
        experiment=experiment_of(splits),
        name=study.study_name,
        tags={
            **kind,
            "vqlab.detector": str(checked.config.detector["name"]),
            "vqlab.category": "+".join(splits.categories),
            "vqlab.data": splits.source,
            "vqlab.data_fingerprint": splits.fingerprint,
            "vqlab.objective": checked.space.objective,
            "mlflow.note.content": f"[The trials of this study]({link})",
        },
        params={key: value for key, value in params.items() if key not in checked.space.axes},
    )
    axes = {setting: dump(axis) for setting, axis in checked.space.axes.items()}
    parent.log_yaml({"objective": checked.space.objective, "space": axes}, "space.yaml")
    return parent


@contextmanager
def _running(objective: Objective, target: int) -> Iterator[None]:
    """While trials run the study's run is RUNNING; it ends as they do."""
    parent, study = objective.parent, objective.study
    objective.tracker.reopen(parent.id)
    try:
        with parent:
            yield
    except KeyboardInterrupt as error:
        project_all(objective)
        raise Interrupted(
            f"study {study.study_name} was interrupted with {studies.settled(study)} of {target} "
            "trials done; the same command goes on from there."
        ) from error


def _run_trials(objective: Objective, target: int, seed: int, deadline: float) -> None:
    study, plan = objective.study, objective.plan
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(plan.own_params(), user_attrs={"recipe": True})
    failures = successes = 0

    def ended(study: optuna.Study, trial: FrozenTrial) -> None:
        nonlocal failures, successes
        failures += trial.state == TrialState.FAIL
        successes += trial.state != TrialState.FAIL
        best = studies.best_trial(study)
        project(objective, trial)
        tidy(objective)
        best_row = row(best) if best else None
        done = studies.settled(study)
        objective.say(TrialFinished(row(trial), best_row, done, target))
        if best is not None and best.value is not None:
            objective.parent.log_metrics({plan.space.objective: best.value}, step=trial.number)
        _stop_if_hopeless(trial, failures, successes, target)

    while studies.settled(study) < target and time.monotonic() < deadline:
        study.sampler = studies.sampler(seed, len(study.get_trials(deepcopy=False)))
        study.optimize(objective, n_trials=1, catch=(Exception,), callbacks=[ended])


def _stop_if_hopeless(trial: FrozenTrial, failures: int, successes: int, target: int) -> None:
    if failures >= _FAILURES and successes == 0 or failures > max(target, 10):
        raise UserError(
            f"the sweep stopped: {failures} of its {failures + successes} trials failed, the last "
            f"one because: {row(trial).reason} Mend that, and run the same command again."
        )
