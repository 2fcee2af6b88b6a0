"""The sweep: open or find the study, run trials up to the target, judge the winner once on test."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vqlab.config import Tree, dump, flatten
from vqlab.data import Splits, load_dataset
from vqlab.features import Backbone
from vqlab.model import build_detector
from vqlab.run import experiment_of
from vqlab.sweep import study as studies
from vqlab.sweep.contest import Contest, Spaces, make_contest
from vqlab.sweep.events import OnEvent, StudyOpened, SweepResult, TrialFinished
from vqlab.sweep.finish import finish
from vqlab.sweep.project import project, project_all, row, tidy
from vqlab.sweep.space import Space
from vqlab.sweep.trial import Objective
from vqlab.tracking import Run, Tracker
from vqlab.types import UserError

_FAILURES = 3
"""Trials that may fail in one call while none succeeds."""


class Interrupted(KeyboardInterrupt):
    """The sweep was told to stop (Ctrl-C, SIGTERM), all is consistent; its text says what next."""


def sweep(
    tree: Tree,
    space: Space | Spaces,
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

    `Spaces` compare several recipes, which then take turns; `tree` has the tree of each by its
    name. Called again it goes on from there, then only gives the result. The same space, settings
    and data are the same study; `preset` is part of its name. `timeout`: seconds after which no
    further trial is started. Raises UserError for what can be known beforehand, for a study that
    another process sweeps, for one whose trials all fail; Interrupted on Ctrl-C.
    """
    started = time.monotonic()
    contest = make_contest(space, tree)
    minimize = contest.first.space.direction == "minimize"
    splits = load_dataset(contest.first.config.data)
    name = contest.study_name(splits, preset)
    database = tracker.root / "optuna.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with studies.only_one(tracker.root / "locks", name), studies.store_errors(database):
        storage = studies.open_storage(database)
        study = studies.open_study(storage, name, contest.first.space.direction)
        notes = _notes(study, contest.base_name(splits, preset))
        link = tracker.study_link(experiment_of(splits), name, contest.objective, minimize)
        done = studies.settled(study)
        if done < trials:
            _check_buildable(contest)
        on_event(StudyOpened(name, link, contest.objective, done, trials, notes))
        parent = _parent(study, tracker, contest, splits, link)
        objective = Objective(contest, splits, study, parent, tracker, on_event)
        project_all(objective)
        if done < trials:
            with _running(objective, trials):
                deadline = float("inf") if timeout is None else started + timeout
                _run_trials(objective, trials, seed, deadline)
        return finish(objective, trials, link, results, started)


def _check_buildable(contest: Contest) -> None:
    """Raise UserError where a recipe's backbone or detector cannot be made (weights that are not
    there, say), before its trials fail one by one while those of the others go on."""
    for recipe, plan in contest.plans.items():
        config = plan.config
        try:
            backbone = Backbone(config.features, config.data.image_size)
            build_detector(config.detector, backbone.spec)
        except UserError as error:
            raise UserError(f"recipe {recipe}: {error}" if recipe else str(error)) from None


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


def _parent(
    study: optuna.Study, tracker: Tracker, contest: Contest, splits: Splits, link: str
) -> Run:
    """The study's own run; found by its tag where the one who made it was killed at once."""
    kind = {"vqlab.kind": "study", "vqlab.study": study.study_name}
    known = tracker.runs(tags=kind)
    if known:
        return tracker.amend(known[-1].run_id)
    detectors = [str(plan.config.detector["name"]) for plan in contest.plans.values()]
    params: dict[str, Any] = {}
    spaces: dict[str, Any] = {}
    for recipe, plan in contest.plans.items():
        fixed = flatten(dump(plan.config))
        fixed = {key: value for key, value in fixed.items() if key not in plan.space.axes}
        params |= contest.named(recipe, fixed)
        spaces[recipe] = {setting: dump(axis) for setting, axis in plan.space.axes.items()}
    parent = tracker.start(
        experiment=experiment_of(splits),
        name=study.study_name,
        tags={
            **kind,
            "vqlab.detector": "+".join(dict.fromkeys(detectors)),
            "vqlab.category": "+".join(splits.categories),
            "vqlab.data": splits.source,
            "vqlab.data_fingerprint": splits.fingerprint,
            "vqlab.objective": contest.objective,
            "mlflow.note.content": f"[The trials of this study]({link})",
        },
        params=params,
    )
    searched = {"recipes": {recipe: {"space": axes} for recipe, axes in spaces.items()}}
    if "" in spaces:
        searched = {"space": spaces[""]}
    parent.log_yaml({"objective": contest.objective, **searched}, "space.yaml")
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
    study = objective.study
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
            figure = {objective.contest.objective: best.value}
            objective.parent.log_metrics(figure, step=trial.number)
        _stop_if_hopeless(trial, failures, successes, target)

    while studies.settled(study) < target and time.monotonic() < deadline:
        _queue_next(study, objective.contest)
        study.sampler = studies.sampler(seed, len(study.get_trials(deepcopy=False)))
        study.optimize(objective, n_trials=1, catch=(Exception,), callbacks=[ended])


def _queue_next(study: optuna.Study, contest: Contest) -> None:
    """Recipes take turns, so that each is the best of as many trials; the first trial of each has
    the recipe's own values."""
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in trials):
        return
    repeated = {trial.user_attrs.get(studies.RETRY_OF) for trial in trials}
    turns = Counter(studies.recipe_of(t) for t in trials if t.number not in repeated)
    recipe = min(contest.plans, key=lambda name: turns[name])
    fixed = {studies.RECIPE: recipe} if recipe else {}
    if not turns[recipe]:
        own = contest.named(recipe, contest.plans[recipe].own_params())
        study.enqueue_trial({**fixed, **own}, user_attrs={"as_in_recipe": True})
    elif recipe:
        study.enqueue_trial(fixed)


def _stop_if_hopeless(trial: FrozenTrial, failures: int, successes: int, target: int) -> None:
    if failures >= _FAILURES and successes == 0 or failures > max(target, 10):
        raise UserError(
            f"the sweep stopped: {failures} of its {failures + successes} trials failed, the last "
            f"one because: {row(trial).reason} Mend that, and run the same command again."
        )
