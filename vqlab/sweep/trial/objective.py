"""One trial: settings drawn, a detector trained, its scoring and thresholds searched."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from vqlab.checkpoint import load_state
from vqlab.config import digest, dump, merge, nest
from vqlab.data import Splits, load_dataset
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.run import (
    REUSED_TAG,
    SAVED_TAG,
    STATE,
    TRAINING_TAG,
    RunConfig,
    experiment_of,
    resolve,
    reused_tags,
    run,
    start,
    trained_key,
)
from vqlab.sweep.comparison import Contest, named
from vqlab.sweep.events import EpochDone, OnEvent, Progressed, TrialStarted
from vqlab.sweep.space.compile import suggest
from vqlab.sweep.study.policy import (
    BEYOND,
    DEAD,
    INTERRUPTED,
    PRESET,
    REASON,
    RECIPE,
    RETRY_OF,
    RUN_ID,
    SAME_AS,
    best_trial,
    refuse_other_images,
    state_tags,
)
from vqlab.sweep.study.storage import database_said
from vqlab.sweep.study.winner import WinnerRule
from vqlab.sweep.sync.views import objective_metrics, trial_name
from vqlab.sweep.trial.constraints import costs, dead_codebook, number
from vqlab.sweep.trial.reuse import (
    REUSED,
    SAVED,
    TRAINED,
    Earlier,
    Reused,
    same_trial,
    trained_mark,
)
from vqlab.sweep.trial.selection import (
    SCORING,
    THRESHOLDS,
    Chosen,
    choose_within,
    log_chosen,
    take_over,
)
from vqlab.tracking import Run, Tracker
from vqlab.types import UserError

VALIDATION, PROGRESS = "validation", "progress"
"""Attributes of a trial: its metrics, [epoch, epochs]."""
_SECONDS = 1.0
"""At least this long between two notes of a trial's progress."""


@dataclass(frozen=True)
class Trained:
    """What a trial came to."""

    model: Model
    last_epoch: dict[str, float]
    """Metrics of the last epoch of training."""
    validation: Report


@dataclass
class Objective:
    """What Optuna calls for each trial of one study."""

    contest: Contest
    splits: Splits
    study: optuna.Study
    parent: Run
    tracker: Tracker
    say: OnEvent
    tidied: set[str] = field(default_factory=set)
    """Runs whose files are gone."""
    mine: dict[str, Run] = field(default_factory=dict)
    """By id, the runs of trials that this process is at or was at since it last tidied up."""
    agreed: set[int] = field(default_factory=set)
    """Numbers of the trials that ended and whose runs say so."""
    rule: WinnerRule = field(init=False)
    _earlier: Earlier | None = None
    _other_splits: dict[str, Splits] = field(default_factory=dict)
    _noted: float = 0.0

    def __post_init__(self) -> None:
        self.rule = WinnerRule(self.study, self.tracker, self.contest.objective)

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """Train and judge; the objectives' values. Raises TrialPruned, and what training raises.

        Whatever ends a trial early is noted in it first, so that both stores can say why.
        """
        try:
            config = self._config(trial)
            complete = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            splits = self.splits_for(config)
            recipe = self.contest.of(trial.params).recipe
            key = trained_key(config, splits.fingerprint)
            mark = trained_mark(key, recipe, config)
            known = same_trial(complete, mark)
            trial.set_user_attr(TRAINED, mark)
            with self._start(trial, config, splits) as tracked:
                taken = 0 if known else self._take_over(trial, tracked)
                self.say(TrialStarted(trial.number, trial.params, tracked.link, taken, recipe))
                if known is not None:
                    values = self._as_before(trial, known, tracked)
                else:
                    earlier = self.earlier_runs().model(complete, key, config)
                    trained = (
                        self._taken(trial, config, splits, tracked, earlier)
                        if earlier
                        else self._trained(trial, config, splits, tracked)
                    )
                    values = self._values(trial, trained, splits)
                tracked.log_metrics(objective_metrics(self.contest, values))
                tracked.set_tags(state_tags(TrialState.COMPLETE, values, trial.user_attrs))
                return values if len(values) > 1 else values[0]
        except optuna.TrialPruned as error:
            trial.set_user_attr(REASON, str(error))
            raise
        except Exception as error:
            trial.set_user_attr(REASON, sentence(error))
            if RUN_ID not in trial.user_attrs:
                self._start_bare(trial)
            raise
        except BaseException:
            trial.set_user_attr(INTERRUPTED, True)
            trial.set_user_attr(REASON, "interrupted")
            raise

    def _config(self, trial: optuna.Trial) -> RunConfig:
        """The settings of a trial: where there are several recipes, one is drawn first."""
        recipes = list(self.contest.plans)
        recipe = recipes[0]
        if recipe:
            recipe = trial.suggest_categorical(RECIPE, recipes)
        plan = self.contest.plans[recipe]
        for name, distribution in named(recipe, plan.sampled).items():
            suggest(trial, name, distribution)
        return trial_config(self.contest, trial.params)

    def earlier_runs(self) -> Earlier:
        """Those whose training may be taken over."""
        if self._earlier is None:
            self._earlier = Earlier(self.tracker, self.splits.fingerprint)
        return self._earlier

    def splits_for(self, config: RunConfig) -> Splits:
        """The data, decoded again only where a trial changes how images are prepared."""
        if config.data == self.contest.first.config.data:
            return self.splits
        key = digest(dump(config.data))
        if key not in self._other_splits:
            splits = load_dataset(config.data)
            refuse_other_images(self.study, splits)
            self._other_splits = {key: splits}
        return self._other_splits[key]

    def _start(self, trial: optuna.Trial, config: RunConfig, splits: Splits) -> Run:
        name, tags = self._named(trial)
        tracked = start(self.tracker, config, splits, name, tags, self.parent.id)
        trial.set_user_attr(RUN_ID, tracked.id)
        self.mine[tracked.id] = tracked
        return tracked

    def _start_bare(self, trial: optuna.Trial) -> None:
        """The run of a trial whose settings or images could not be had: it shows the reason."""
        name, tags = self._named(trial)
        tracked = self.tracker.start(
            experiment=experiment_of(self.splits),
            name=name,
            tags=tags,
            params=trial.params,
            parent=self.parent.id,
        )
        trial.set_user_attr(RUN_ID, tracked.id)

    def _named(self, trial: optuna.Trial) -> tuple[str, dict[str, str]]:
        """Name and tags of a trial's run."""
        tags = {
            "vqlab.kind": "trial",
            "vqlab.study": self.study.study_name,
            "vqlab.trial": str(trial.number),
            "vqlab.objective": self.contest.objective,
            "optuna.state": "RUNNING",
        }
        if preset := self.study.user_attrs.get(PRESET):
            tags["vqlab.preset"] = preset
        if RETRY_OF in trial.user_attrs:
            tags["vqlab.retry_of"] = str(trial.user_attrs[RETRY_OF])
        if RECIPE in trial.params:
            tags["vqlab.recipe"] = trial.params[RECIPE]
        return trial_name(self.contest, trial.number, trial.params), tags

    def _take_over(self, trial: optuna.Trial, tracked: Run) -> int:
        """Go on from the last epoch of the interrupted trial that this one repeats."""
        before = trial.user_attrs.get(RETRY_OF)
        if before is None:
            return 0
        earlier = trial.study.get_trials(deepcopy=False)[before]
        state = self.tracker.run_folder(earlier.user_attrs.get(RUN_ID, "none")) / STATE
        if not state.exists():
            return 0
        epochs = len(load_state(state)["history"])
        folder = self.tracker.run_folder(tracked.id)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(state, folder / STATE)
        return epochs

    def _as_before(
        self, trial: optuna.Trial, known: FrozenTrial, tracked: Run
    ) -> tuple[float, ...]:
        """The values of a trial of this study that trained the same."""
        for name in (VALIDATION, SCORING, THRESHOLDS, BEYOND, DEAD):
            if name in known.user_attrs:
                trial.set_user_attr(name, known.user_attrs[name])
        trial.set_user_attr(SAME_AS, known.user_attrs.get(SAME_AS, known.number))
        seconds = known.duration.total_seconds() if known.duration else 0.0
        tracked.set_tags(reused_tags(f"trial {known.number}", seconds))
        self._note_reused(trial, tracked)
        tracked.log_metrics(known.user_attrs[VALIDATION])
        chosen = {**known.user_attrs.get(SCORING, {}), **known.user_attrs.get(THRESHOLDS, {})}
        log_chosen(tracked, chosen, self.contest.of(trial.params).recipe)
        return tuple(known.values)

    def _trained(
        self, trial: optuna.Trial, config: RunConfig, splits: Splits, tracked: Run
    ) -> Trained:
        outcome = run(
            config,
            self.tracker,
            resumed=tracked,
            splits=splits,
            test=False,
            assess=partial(self._chosen, trial, tracked),
            on_epoch=lambda *epoch: self._watch(trial, *epoch),
            on_progress=lambda what, done, total: self.say(Progressed(what, done, total)),
        )
        self._note_reused(trial, tracked)
        return Trained(outcome.model, outcome.last_epoch, outcome.validation)

    def _taken(
        self, trial: optuna.Trial, config: RunConfig, splits: Splits, tracked: Run, earlier: Reused
    ) -> Trained:
        """What an earlier run trained, scored as this trial wants it."""
        model, record = earlier
        seconds = float(record.tags.get(TRAINING_TAG, record.duration or 0.0))
        tracked.set_tags(reused_tags(f"run {record.run_id}", seconds))
        self._note_reused(trial, tracked)
        trained = ("train/", "codebook/")
        learned = {k: value for k, value in record.metrics.items() if k.startswith(trained)}
        tracked.log_metrics(learned, step=config.training.epochs)
        self._check_codebooks(trial, learned)
        found = take_over(self.contest.of(trial.params), tracked, model, config, splits)
        self._note(trial, found)
        return Trained(found.model, learned, found.report)

    def _watch(
        self, trial: optuna.Trial, epoch: int, epochs: int, metrics: Mapping[str, float]
    ) -> None:
        self.say(EpochDone(trial.number, epoch, epochs, dict(metrics)))
        if time.monotonic() > self._noted + _SECONDS:
            self._noted = time.monotonic()
            trial.set_user_attr(PROGRESS, [epoch, epochs])
        recipe, plan, _ = self.contest.of(trial.params)
        value = metrics.get(self.contest.objective)
        alone = len(self.contest.objectives) == 1  # Optuna prunes by one objective only
        if alone and value is not None and math.isfinite(value):
            trial.report(value, epoch)
            if epoch >= plan.space.warmup(epochs) and trial.should_prune():
                of = f" of {recipe}" if recipe else ""
                raise optuna.TrialPruned(
                    f"behind the median of earlier trials{of} at epoch {epoch} "
                    f"({self.contest.objective} {value:.4f})"
                )
        if epoch == epochs:
            self._check_codebooks(trial, metrics)

    def _check_codebooks(self, trial: optuna.Trial, metrics: Mapping[str, float]) -> None:
        """Prune a trial with a dead codebook where there is a trial without."""
        reason = dead_codebook(metrics, len(self.splits.categories))
        if reason:
            trial.set_user_attr(DEAD, reason)
            best = best_trial(trial.study, self.contest.of(trial.params).recipe)
            if best is not None and DEAD not in best.user_attrs:
                raise optuna.TrialPruned(reason)

    def _chosen(
        self, trial: optuna.Trial, tracked: Run, model: Model, config: RunConfig, splits: Splits
    ) -> tuple[Model, Report]:
        found = choose_within(self.contest.of(trial.params), tracked, model, config, splits)
        self._note(trial, found)
        return found.model, found.report

    def _note(self, trial: optuna.Trial, found: Chosen) -> None:
        for name, value in found.attributes.items():
            trial.set_user_attr(name, value)

    def _note_reused(self, trial: optuna.Trial, tracked: Run) -> None:
        """What the trial's run says of what was not worked out again."""
        if REUSED_TAG in tracked.tags:
            trial.set_user_attr(REUSED, tracked.tags[REUSED_TAG])
            trial.set_user_attr(SAVED, float(tracked.tags[SAVED_TAG]))

    def _values(self, trial: optuna.Trial, trained: Trained, splits: Splits) -> tuple[float, ...]:
        report, metrics = trained.validation, trained.validation.keyed("validation")
        trial.set_user_attr(VALIDATION, metrics)
        limits = self.contest.of(trial.params).plan.space.limits
        objectives = self.contest.objectives
        measured = costs(trained.model, splits, {*objectives, *limits})
        known = {**trained.last_epoch, **metrics, **measured}
        values = tuple(number(known, name, report) for name in objectives)
        beyond = []
        for name, limit in limits.items():
            over = limit.beyond(number(known, name, report))
            trial.set_constraint(name, over)
            if over > 0:
                beyond.append(f"{name} {known[name]:.4g} is beyond its limit")
        if beyond:
            trial.set_user_attr(BEYOND, "; ".join(beyond))
        return values


def trial_config(contest: Contest, params: Mapping[str, Any]) -> RunConfig:
    """The settings by which a trial with these parameters is trained."""
    _, plan, own = contest.of(params)
    config = resolve(plan.tree_of(own))
    if config.training.validate_every:
        return config
    every = plan.space.validate_every(config.training.epochs)
    return resolve(merge(dump(config), nest("training.validate_every", every)))


def sentence(error: Exception) -> str:
    """Why a trial failed."""
    if isinstance(error, StorageInternalError):
        return f"the study store could not be used: {database_said(error)}."
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
