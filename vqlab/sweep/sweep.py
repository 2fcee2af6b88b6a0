"""Run a sweep: open its studies, run trials up to the target, evaluate the winner once on test."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import RDBStorage

from vqlab.config import dump, flatten
from vqlab.data import Splits, load_dataset
from vqlab.features import Backbone
from vqlab.model import build_detector
from vqlab.run import experiment_of, log_data, require_test, show_experiment
from vqlab.sweep.comparison import Comparison
from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import OnEvent, StudyOpened, SweepResult, TrialKey
from vqlab.sweep.report import annotate
from vqlab.sweep.result import finish
from vqlab.sweep.space.image_limits import limit_plan
from vqlab.sweep.study.retry import queued_retries, reconcile
from vqlab.sweep.study.storage import opened_storage, storage_address, study_lock, sweep_lock
from vqlab.sweep.study.studies import PRESET, Studies, open_studies, siblings
from vqlab.sweep.sync.mirror import Mirror, deleted_trials
from vqlab.sweep.sync.views import StudyPages
from vqlab.sweep.trial.retrain import request_tests
from vqlab.sweep.workers.base import ExternalWorkers, Launcher
from vqlab.sweep.workers.local import LocalWorkers
from vqlab.sweep.workers.loop import work
from vqlab.sweep.workers.monitor import monitor
from vqlab.sweep.workers.task import store_task
from vqlab.tracking import NOTE, Run, Tracker, category_tags
from vqlab.types import UserError


class Interrupted(KeyboardInterrupt):
    """The sweep was stopped (Ctrl-C, SIGTERM). Both stores are consistent."""


@dataclass(frozen=True)
class Execution:
    """How the trials of a sweep are executed."""

    workers: int = 1
    """One worker runs in this process, several run in their own processes."""
    launcher: Launcher | Literal["elsewhere"] | None = None
    """Starts the workers in another way; `elsewhere` waits for workers started by others."""
    timeout: float | None = None
    """Seconds after which no trial is started."""

    def launcher_for(self, studies: Studies, tracker: Tracker, target: int) -> Launcher | None:
        """Return the launcher of the workers until there are `target` trials; None: this
        process is the worker."""
        if self.launcher == "elsewhere":
            return ExternalWorkers(lambda: studies.n_done() >= target)
        if self.launcher is None and self.workers > 1:
            return LocalWorkers(self.workers, tracker.root, self.timeout)
        return self.launcher


IN_THIS_PROCESS = Execution()


def sweep(
    comparison: Comparison,
    tracker: Tracker,
    *,
    trials: int,
    seed: int = 0,
    execution: Execution = IN_THIS_PROCESS,
    on_event: OnEvent = lambda event: None,
    test: Sequence[int | str | TrialKey] = (),
    results: Path = Path("results"),
) -> SweepResult:
    """Search the spaces of a comparison until there are `trials` trials in total.

    Each recipe has an Optuna study; the trials are shared among them by successive halving. Called
    again, it resumes, then only returns the result. A sweep is identified by its spaces, settings,
    data, preset and the `available` backbones of the spaces that this machine has.

    test: trials to score on test besides the winner, numbers or `RECIPE:NUMBER`. Raises UserError
    for invalid input, for a sweep that another process runs or whose trials all fail, and for a
    trial to test that did not complete; Interrupted on Ctrl-C.
    """
    started = time.monotonic()
    splits = _load(comparison, test=bool(test))
    plans = {recipe: limit_plan(plan, splits) for recipe, plan in comparison.plans.items()}
    comparison = replace(comparison, plans=plans)
    requested = [TrialKey.parse(str(trial)) for trial in test]
    name = comparison.sweep_name(splits)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    locked = sweep_lock(tracker.root / "locks", name)
    with locked, opened_storage(storage_address(tracker.root)) as storage:
        studies, notes = _open(storage, name, comparison, comparison.base_name(splits))
        pages = StudyPages(tracker, comparison, splits, name)
        done = studies.n_done()
        if done < trials:
            _check_buildable(comparison)
        request_tests(studies, requested, more=done < trials)
        pages.save()
        on_event(StudyOpened(name, pages.table_link, comparison.objective, done, trials, notes))
        studies.set_attribute(PRESET, comparison.preset or "full")
        parent = _open_run(storage, studies, tracker, comparison, splits, pages)
        context = SweepContext(comparison, splits, studies, parent, tracker, on_event)
        mirror = _mirror(context)
        if done < trials:
            store_task(context, trials, seed)
            timeout = math.inf if execution.timeout is None else execution.timeout
            with running(
                tracker, parent, f"study {name}", lambda: f"{studies.n_done()} of {trials} trials"
            ):
                launcher = execution.launcher_for(studies, tracker, trials)
                _run_trials(context, mirror, storage, launcher, trials, started + timeout)
        result = finish(context, mirror, trials, pages, results, started, requested)
        try:
            request_tests(studies, requested)
        except UserError as error:  # a requested trial did not complete
            raise UserError(
                f"{error} The sweep is complete; re-run it without this trial to print its result."
            ) from error
        return result


def _mirror(context: SweepContext) -> Mirror:
    """Return the updated mirror of the studies in MLflow; trials deleted there cannot win."""
    context.rule.deleted = deleted_trials(context)
    mirror = Mirror(context)
    mirror.update_all()
    return mirror


def _load(comparison: Comparison, test: bool) -> Splits:
    """Load the dataset. Raises UserError if an objective or a limit is not defined on it, or if
    trials are to be tested (`test`) and it has no test images."""
    splits = load_dataset(comparison.first.config.data)
    limits = [name for plan in comparison.plans.values() for name in plan.space.limits]
    for metric in (*comparison.objectives, *limits):
        splits.require_defined(metric)
    if test:
        require_test(splits, "to score trials on")
    return splits


def _run_trials(
    context: SweepContext,
    mirror: Mirror,
    storage: RDBStorage,
    launcher: Launcher | None,
    target: int,
    deadline: float,
) -> None:
    studies = context.studies
    try:
        if launcher is None:
            work(context, mirror, storage, deadline)
        else:
            launcher.start(studies.name)
            monitor(context.rule, launcher, target, context.emit)
    finally:
        if launcher is not None:
            launcher.stop()
        with study_lock(storage, studies.name):
            for study in studies.by_recipe.values():
                reconcile(study, storage)
        mirror.update_all()


def _check_buildable(comparison: Comparison) -> None:
    """Raise UserError if a recipe's backbone or detector cannot be built (e.g. missing weights),
    before its trials fail one after the other."""
    for recipe, plan in comparison.plans.items():
        config = plan.config
        try:
            backbone = Backbone(config.features, config.data.image_size)
            build_detector(config.detector, backbone.spec)
        except UserError as error:
            raise UserError(f"recipe {recipe}: {error}" if recipe else str(error)) from None


def _open(
    storage: RDBStorage, name: str, comparison: Comparison, base: str
) -> tuple[Studies, tuple[str, ...]]:
    """Return the studies, created or with interrupted trials queued, and notes for the user."""
    directions = comparison.first.space.directions
    studies = open_studies(storage, name, list(comparison.plans), directions)
    with study_lock(storage, name):
        return studies, comparison.notes + _notes(studies, storage, base)


def _notes(studies: Studies, storage: RDBStorage, base: str) -> tuple[str, ...]:
    """Queue interrupted trials, and return notes for the user."""
    notes = []
    others = siblings(storage, studies, base)
    if others and not studies.trials():
        notes.append(
            f"this is a new study; its space, settings or data differ from those of "
            f"{', '.join(others)}."
        )
    queued = []
    for recipe, study in studies.by_recipe.items():
        reconcile(study, storage)
        queued += [str(TrialKey(recipe, number)) for number in queued_retries(study)]
    if queued:
        notes.append(f"Retrying interrupted trial {', '.join(queued)}.")
    return tuple(notes)


def _open_run(
    storage: RDBStorage,
    studies: Studies,
    tracker: Tracker,
    comparison: Comparison,
    splits: Splits,
    pages: StudyPages,
) -> Run:
    """Return the sweep's own run, started if there is none, and annotate its studies."""
    with study_lock(storage, studies.name):  # of two machines one starts it
        run = _parent(studies.name, tracker, comparison, splits, pages)
        for study in studies.by_recipe.values():
            annotate(study, comparison.objectives, pages.dataset, pages.all_links)
    return run


def _parent(
    name: str, tracker: Tracker, comparison: Comparison, splits: Splits, pages: StudyPages
) -> Run:
    """Return the sweep's own run; start it if there is none."""
    kind = {"vqlab.kind": "study", "vqlab.study": name}
    earlier = tracker.runs(tags=kind)
    if earlier:
        return tracker.amend(earlier[-1].run_id)
    detectors = [str(plan.config.detector["name"]) for plan in comparison.plans.values()]
    params: dict[str, Any] = {}
    spaces: dict[str, Any] = {}
    for recipe, plan in comparison.plans.items():
        fixed = flatten(dump(plan.config))
        prefix = f"{recipe}." if recipe else ""
        params |= {prefix + k: value for k, value in fixed.items() if k not in plan.space.axes}
        spaces[recipe] = {setting: axis.tree for setting, axis in plan.space.axes.items()}
    parent = tracker.start(
        experiment=experiment_of(splits),
        name=pages.title,
        tags={
            **kind,
            "vqlab.detector": "+".join(dict.fromkeys(detectors)),
            **category_tags(splits.categories),
            "vqlab.data": splits.source,
            "vqlab.data_fingerprint": splits.fingerprint,
            "vqlab.objective": comparison.objective,
            NOTE: pages.links,
            **({"vqlab.available": " ".join(comparison.notes)} if comparison.notes else {}),
        },
        params=params,
    )
    searched = {"recipes": {recipe: {"space": axes} for recipe, axes in spaces.items()}}
    if "" in spaces:
        searched = {"space": spaces[""]}
    log_data(parent, splits)
    show_experiment(tracker, splits, experiment_of(splits))
    parent.log_yaml({"objective": comparison.objective, **searched}, "space.yaml")
    return parent


@contextmanager
def running(tracker: Tracker, run: Run, name: str, counts: Callable[[], str]) -> Iterator[None]:
    """Keep a study's own run RUNNING. On Ctrl-C raise Interrupted, which says what is done."""
    tracker.reopen(run.id)
    try:
        with run:
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"{name} was interrupted with {counts()} done; run the same command to resume."
        ) from error
