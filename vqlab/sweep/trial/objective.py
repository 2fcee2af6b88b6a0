"""One trial: sample settings, train a detector, select scoring and thresholds."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from vqlab.checkpoint import load_state
from vqlab.config import dump, merge, nest
from vqlab.data import Splits
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.nn.codebook_health import dead_codebook
from vqlab.run import (
    REUSED_TAG,
    SAVED_TAG,
    STATE,
    TRAINING_TAG,
    Recording,
    RunConfig,
    experiment_of,
    resolve,
    reused_tags,
    run,
    start,
    trained_key,
)
from vqlab.sweep.context import SweepContext
from vqlab.sweep.events import EpochDone, Progressed, TrialStarted
from vqlab.sweep.space.compile import Plan, suggest
from vqlab.sweep.study.execution import TrialProgress, noted_reason
from vqlab.sweep.study.policy import best_of, candidates
from vqlab.sweep.study.record import key_of, note, record_of, state_tags
from vqlab.sweep.study.studies import PRESET
from vqlab.sweep.sync.mirror import Mirror
from vqlab.sweep.sync.views import objective_metrics, trial_name
from vqlab.sweep.trial.constraints import costs, number
from vqlab.sweep.trial.reuse import Reused, same_trial, trained_mark
from vqlab.sweep.trial.selection import log_chosen, select_for_reused, select_within
from vqlab.tracking import Run

_COPIED = ("validation", "scoring", "thresholds", "violation", "dead_codebook")
"""Fields of the record that are copied to a trial with the same training and scoring."""


@dataclass(frozen=True)
class Trained:
    """A trained detector and its metrics."""

    model: Model
    last_epoch: dict[str, float]
    """Metrics of the last epoch of training."""
    validation: Report


class TrialRunner:
    """Run one trial: train a detector, or reuse one, and evaluate it on validation."""

    def __init__(self, context: SweepContext, mirror: Mirror, trial: optuna.Trial) -> None:
        self.context, self.mirror, self.trial = context, mirror, trial
        self.comparison, self.tracker = context.comparison, context.tracker
        self.key = key_of(trial)
        self.study = context.studies[self.key.recipe]
        self.plan = context.comparison[self.key.recipe]
        self._record_progress = TrialProgress(trial)

    def run(self) -> float | tuple[float, ...]:
        """Return the values of the objectives. Raises TrialPruned, and errors of training.

        The reason is stored in the trial if it ends early.
        """
        try:
            with noted_reason(self.trial):
                return self._run()
        except Exception:
            if record_of(self.trial).run_id is None:
                self._start_bare()
            raise

    def _run(self) -> float | tuple[float, ...]:
        trial, context = self.trial, self.context
        config = self._sampled_config()
        complete = context.studies.trials(TrialState.COMPLETE)
        splits = context.splits_for(config)
        key = trained_key(config, splits.fingerprint)
        mark = trained_mark(key, self.key.recipe, config)
        same = same_trial(complete, mark)
        note(trial, trained=mark)
        with self._start(config, splits) as tracked:
            resumed_at = 0 if same else self._take_over_state(tracked)
            context.emit(TrialStarted(self.key, trial.params, tracked.link, resumed_at))
            if same is not None:
                values = self._copy(same, tracked)
            else:
                earlier = context.earlier_runs.model(complete, key, config)
                if earlier is not None:
                    trained = self._reuse(config, splits, tracked, earlier)
                else:
                    trained = self._train(config, splits, tracked)
                values = self._values(trained, splits)
            tracked.log_metrics(objective_metrics(self.comparison, values))
            tracked.set_tags(state_tags(TrialState.COMPLETE, values, record_of(trial)))
            return values if len(values) > 1 else values[0]

    def _sampled_config(self) -> RunConfig:
        for name, distribution in self.plan.sampled.items():
            suggest(self.trial, name, distribution)
        return trial_config(self.plan, self.trial.params)

    def _start(self, config: RunConfig, splits: Splits) -> Run:
        name, tags = self._name_and_tags()
        tracked = start(self.tracker, config, splits, name, tags, self.context.parent.id)
        note(self.trial, run_id=tracked.id)
        self.mirror.runs[tracked.id] = tracked
        return tracked

    def _start_bare(self) -> None:
        """Start the run of a trial whose settings or images are invalid, to show the reason."""
        name, tags = self._name_and_tags()
        tracked = self.tracker.start(
            experiment=experiment_of(self.context.splits),
            name=name,
            tags=tags,
            params=self.trial.params,
            parent=self.context.parent.id,
        )
        note(self.trial, run_id=tracked.id)

    def _name_and_tags(self) -> tuple[str, dict[str, str]]:
        trial, studies = self.trial, self.context.studies
        tags = {
            "vqlab.kind": "trial",
            "vqlab.study": studies.name,
            "vqlab.trial": str(trial.number),
            "vqlab.objective": self.comparison.objective,
            "optuna.state": "RUNNING",
        }
        if preset := studies.attributes.get(PRESET):
            tags["vqlab.preset"] = preset
        retry_of = record_of(trial).retry_of
        if retry_of is not None:
            tags["vqlab.retry_of"] = str(retry_of)
        if self.key.recipe:
            tags["vqlab.recipe"] = self.key.recipe
        return trial_name(self.plan, self.key, trial.params), tags

    def _take_over_state(self, tracked: Run) -> int:
        """Copy the training state of the interrupted trial that this one retries; return its
        epoch."""
        before = record_of(self.trial).retry_of
        if before is None:
            return 0
        earlier = self.study.get_trials(deepcopy=False)[before]
        state = self.tracker.run_folder(record_of(earlier).run_id or "none") / STATE
        if not state.exists():
            return 0
        epochs = len(load_state(state)["history"])
        folder = self.tracker.run_folder(tracked.id)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(state, folder / STATE)
        return epochs

    def _copy(self, same: FrozenTrial, tracked: Run) -> tuple[float, ...]:
        """Return the values of a trial of this study with the same training and scoring."""
        record = record_of(same)
        note(
            self.trial,
            **{name: value for name in _COPIED if (value := getattr(record, name))},
            same_as=same.number if record.same_as is None else record.same_as,
        )
        seconds = same.duration.total_seconds() if same.duration else 0.0
        tracked.set_tags(reused_tags(f"trial {key_of(same)}", seconds))
        self._note_reused(tracked)
        tracked.log_metrics(record.validation)
        log_chosen(tracked, {**record.scoring, **record.thresholds})
        return tuple(same.values)

    def _train(self, config: RunConfig, splits: Splits, tracked: Run) -> Trained:
        outcome = run(
            config,
            self.tracker,
            Recording(resumed=tracked),
            splits=splits,
            test=False,
            assess=partial(self._select, tracked),
            on_epoch=self._on_epoch,
            on_progress=lambda task, done, total: self.context.emit(Progressed(task, done, total)),
        )
        self._note_reused(tracked)
        return Trained(outcome.model, outcome.last_epoch, outcome.validation)

    def _reuse(self, config: RunConfig, splits: Splits, tracked: Run, earlier: Reused) -> Trained:
        """Select scoring and thresholds for the model of an earlier run."""
        model, record = earlier
        seconds = float(record.tags.get(TRAINING_TAG, record.duration or 0.0))
        tracked.set_tags(reused_tags(f"run {record.run_id}", seconds))
        self._note_reused(tracked)
        prefixes = ("train/", "codebook/")
        metrics = {k: v for k, v in record.metrics.items() if k.startswith(prefixes)}
        tracked.log_metrics(metrics, step=config.training.epochs)
        self._check_codebooks(metrics)
        chosen = select_for_reused(self.plan, tracked, model, config, splits)
        note(self.trial, **chosen.attributes)
        return Trained(chosen.model, metrics, chosen.report)

    def _select(
        self, tracked: Run, model: Model, config: RunConfig, splits: Splits
    ) -> tuple[Model, Report]:
        chosen = select_within(self.plan, tracked, model, config, splits)
        note(self.trial, **chosen.attributes)
        return chosen.model, chosen.report

    def _on_epoch(self, epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
        """Report an epoch. Raises TrialPruned."""
        self.context.emit(EpochDone(self.key, epoch, epochs, dict(metrics)))
        self._record_progress(epoch, epochs)
        objective = self.comparison.objective
        value = metrics.get(objective)
        single = len(self.comparison.objectives) == 1  # Optuna prunes by one objective only
        if single and value is not None and math.isfinite(value):
            self.trial.report(value, epoch)
            if epoch >= self.plan.space.warmup(epochs) and self.trial.should_prune():
                of = f" of {self.key.recipe}" if self.key.recipe else ""
                raise optuna.TrialPruned(
                    f"worse than the median of earlier trials{of} at epoch {epoch} "
                    f"({objective} {value:.4f})"
                )
        if epoch == epochs:
            self._check_codebooks(metrics)

    def _check_codebooks(self, metrics: Mapping[str, float]) -> None:
        """Prune the trial if a codebook is dead and the best trial has none."""
        reason = dead_codebook(metrics, len(self.context.splits.categories))
        if reason:
            note(self.trial, dead_codebook=reason)
            trials = candidates(self.study.get_trials(deepcopy=False))
            best = best_of(trials, self.context.studies.maximize)
            if best is not None and not record_of(best).dead_codebook:
                raise optuna.TrialPruned(reason)

    def _note_reused(self, tracked: Run) -> None:
        if REUSED_TAG in tracked.tags:
            seconds = float(tracked.tags[SAVED_TAG])
            note(self.trial, reused=tracked.tags[REUSED_TAG], seconds_saved=seconds)

    def _values(self, trained: Trained, splits: Splits) -> tuple[float, ...]:
        """Store the metrics and the constraints; return the values of the objectives."""
        report, metrics = trained.validation, trained.validation.keyed("validation")
        note(self.trial, validation=metrics)
        limits = self.plan.space.limits
        objectives = self.comparison.objectives
        measured = costs(trained.model, splits, {*objectives, *limits})
        metrics = {**trained.last_epoch, **metrics, **measured}
        values = tuple(number(metrics, name, report) for name in objectives)
        violations = []
        for name, limit in limits.items():
            excess = limit.violation(number(metrics, name, report))
            self.trial.set_constraint(name, excess)
            if excess > 0:
                violations.append(f"{name} {metrics[name]:.4g} violates its constraint")
        if violations:
            note(self.trial, violation="; ".join(violations))
        return values


def trial_config(plan: Plan, params: Mapping[str, Any]) -> RunConfig:
    """Return the settings of a trial with these parameters."""
    config = resolve(plan.tree_of(params))
    if config.training.validate_every:
        return config
    every = plan.space.validate_every(config.training.epochs)
    return resolve(merge(dump(config), nest("training.validate_every", every)))
