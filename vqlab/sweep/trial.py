"""One trial: settings drawn, a detector trained and judged on validation, thresholds searched."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from vqlab.checkpoint import load_state
from vqlab.config import digest, dump, merge, nest, validate
from vqlab.data import Splits, load_dataset
from vqlab.evaluation import (
    Report,
    Scored,
    Thresholds,
    ThresholdSettings,
    choose_thresholds,
    evaluate,
)
from vqlab.model import Model
from vqlab.run import CHECKPOINT, STATE, Outcome, RunConfig, resolve, run, start
from vqlab.sweep.contest import Contest
from vqlab.sweep.events import EpochDone, OnEvent, TrialStarted
from vqlab.sweep.study import (
    BEYOND,
    DEAD,
    INTERRUPTED,
    REASON,
    RECIPE,
    RETRY_OF,
    RUN_ID,
    best_trial,
)
from vqlab.tracking import Run, Tracker
from vqlab.types import UserError

VALIDATION, THRESHOLDS, PROGRESS = "validation", "thresholds", "progress"
"""Attributes of a trial: its metrics, the threshold settings chosen for it, [epoch, epochs]."""
_SECONDS = 1.0
"""At least this long between two notes of a trial's progress."""
_COSTED_ON = 8
"""Images on which a cost in seconds is measured."""
RULE = "pixel F1 at the threshold on the drawn defects"
"""What chooses among threshold settings."""


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
    _other_splits: dict[str, Splits] = field(default_factory=dict)
    _noted: float = 0.0

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """Train and judge; the objectives' values. Raises TrialPruned, and what training raises.

        Whatever ends a trial early is noted in it first, so that both stores can say why.
        """
        try:
            config = self._config(trial)
            splits = self.splits_for(config)
            tracked = self._start(trial, config, splits)
            taken = self._take_over(trial, tracked)
            link = self.tracker.link(tracked.id)
            recipe = self.contest.of(trial.params)[0]
            self.say(TrialStarted(trial.number, trial.params, link, taken, recipe))
            outcome = run(
                config,
                self.tracker,
                resumed=tracked,
                splits=splits,
                test=False,
                on_epoch=lambda *epoch: self._watch(trial, *epoch),
            )
            report = self._search_thresholds(trial, outcome, config, splits, tracked)
            return self._values(trial, outcome, report, splits)
        except optuna.TrialPruned as error:
            trial.set_user_attr(REASON, str(error))
            raise
        except Exception as error:
            trial.set_user_attr(REASON, _sentence(error))
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
        for name, distribution in self.contest.named(recipe, plan.sampled).items():
            _draw(trial, name, distribution)
        config = resolve(plan.tree_of(self.contest.of(trial.params)[2]))
        if config.training.validate_every:
            return config
        every = plan.space.validate_every(config.training.epochs)
        return resolve(merge(dump(config), nest("training.validate_every", every)))

    def splits_for(self, config: RunConfig) -> Splits:
        """The data, decoded again only where a trial changes how images are prepared."""
        if config.data == self.contest.first.config.data:
            return self.splits
        key = digest(dump(config.data))
        if key not in self._other_splits:
            self._other_splits = {key: load_dataset(config.data)}
        return self._other_splits[key]

    def _start(self, trial: optuna.Trial, config: RunConfig, splits: Splits) -> Run:
        tags = {
            "vqlab.kind": "trial",
            "vqlab.study": self.study.study_name,
            "vqlab.trial": str(trial.number),
            "vqlab.objective": self.contest.objective,
            "optuna.state": "RUNNING",
        }
        if RETRY_OF in trial.user_attrs:
            tags["vqlab.retry_of"] = str(trial.user_attrs[RETRY_OF])
        name = f"{self.study.study_name}-{trial.number:03d}"
        recipe = self.contest.of(trial.params)[0]
        if recipe:
            tags["vqlab.recipe"] = recipe
            name += f"-{recipe}"
        tracked = start(self.tracker, config, splits, name, tags, self.parent.id)
        trial.set_user_attr(RUN_ID, tracked.id)
        return tracked

    def _take_over(self, trial: optuna.Trial, tracked: Run) -> int:
        """Go on from the last epoch of the interrupted trial that this one repeats."""
        number = trial.user_attrs.get(RETRY_OF)
        if number is None:
            return 0
        before = trial.study.get_trials(deepcopy=False)[number]
        state = self.tracker.run_folder(before.user_attrs.get(RUN_ID, "none")) / STATE
        if not state.exists():
            return 0
        epochs = len(load_state(state)["history"])
        folder = self.tracker.run_folder(tracked.id)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(state, folder / STATE)
        return epochs

    def _watch(
        self,
        trial: optuna.Trial,
        epoch: int,
        epochs: int,
        metrics: Mapping[str, float],
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
            reason = dead_codebook(metrics)
            if reason:
                trial.set_user_attr(DEAD, reason)
                best = best_trial(trial.study, recipe)
                if best is not None and DEAD not in best.user_attrs:
                    raise optuna.TrialPruned(reason)

    def _search_thresholds(
        self,
        trial: optuna.Trial,
        outcome: Outcome,
        config: RunConfig,
        splits: Splits,
        tracked: Run,
    ) -> Report:
        """Choose the threshold settings on the trained detector; store them where they changed."""
        recipe, plan, _ = self.contest.of(trial.params)
        combinations = list(plan.threshold_settings())
        if not combinations:
            return outcome.validation
        scored = outcome.model.score_set(splits.validation)
        chosen, thresholds, f1 = best_thresholds(scored, config.threshold, combinations)
        trial.set_user_attr(THRESHOLDS, self.contest.named(recipe, chosen))
        report = evaluate(scored, thresholds)
        model = outcome.model
        tree = dump(config)
        for setting, number in chosen.items():
            tree = merge(tree, nest(setting, number))
        measured = {"thresholds": asdict(thresholds), "validation": report.mean, "config": tree}
        model = replace(model, thresholds=thresholds, meta={**model.meta, **measured})
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / CHECKPOINT)
            tracked.log_artifact(Path(folder) / CHECKPOINT, "checkpoint")
        tracked.log_metrics(report.keyed("validation"), step=config.training.epochs)
        tags = {f"vqlab.{setting}": f"{number:g}" for setting, number in chosen.items()}
        tracked.set_tags({**tags, "vqlab.threshold_rule": f"{RULE} ({f1:.4f})"})
        return report

    def _values(
        self, trial: optuna.Trial, outcome: Outcome, report: Report, splits: Splits
    ) -> float | tuple[float, ...]:
        metrics = report.keyed("validation")
        trial.set_user_attr(VALIDATION, metrics)
        plan = self.contest.of(trial.params)[1]
        objectives, limits = self.contest.objectives, plan.space.limits
        asked = {*objectives, *limits}
        known = {**outcome.last_epoch, **metrics, **_costs(outcome.model, splits, asked)}
        values = tuple(_number(known, name, report) for name in objectives)
        beyond = []
        for name, limit in limits.items():
            over = limit.beyond(_number(known, name, report))
            trial.set_constraint(name, over)
            if over > 0:
                beyond.append(f"{name} {known[name]:.4g} is beyond its limit")
        if beyond:
            trial.set_user_attr(BEYOND, "; ".join(beyond))
        return values if len(values) > 1 else values[0]


def _costs(model: Model, splits: Splits, asked: set[str]) -> dict[str, float]:
    """What the model costs, as far as it is asked for. CPU-seconds: of all threads, from the file
    to the score."""
    found: dict[str, float] = {}
    if "cost/parameters" in asked:
        every = [*model.detector.parameters(), *model.backbone.parameters()]
        found["cost/parameters"] = float(sum(weights.numel() for weights in every))
    if "cost/cpu_seconds_per_image" in asked:
        few = splits.train.samples[:_COSTED_ON]
        started = time.process_time()
        for sample in few:
            model.score(sample.path)
        found["cost/cpu_seconds_per_image"] = (time.process_time() - started) / len(few)
    return found


def _number(metrics: Mapping[str, float], name: str, report: Report) -> float:
    """A metric of a trial. Raises UserError where there is none, or no number."""
    value = metrics.get(name)
    if value is None:
        known = ", ".join(sorted(metrics)) or "none"
        raise UserError(
            f"the objective {name} is not among the trial's metrics ({known}); "
            f"{' '.join(report.notes)}"
        )
    if not math.isfinite(value):
        raise UserError(f"the objective {name} is {value}, no number.")
    return value


def dead_codebook(metrics: Mapping[str, float]) -> str:
    """Why the codebook counts as dead, by what `Detector.health` says; empty where it lives.

    Limits: perplexity 20 (an eighth of a codebook smaller than 160), four fifths of codes unused.
    """
    perplexity, dead = metrics.get("codebook/perplexity"), metrics.get("codebook/dead_codes")
    usage = metrics.get("codebook/usage")
    if perplexity is None or dead is None or usage is None or usage == 1:
        return ""
    if usage < 0.2:
        return f"dead codebook: {1 - usage:.0%} of its codes are unused (at most 80%)"
    limit = min(20.0, dead / (1 - usage) / 8)
    if perplexity < limit:
        return f"dead codebook: perplexity {perplexity:.1f} (at least {limit:g})"
    return ""


def best_thresholds(
    scored: Scored, base: ThresholdSettings, combinations: list[dict[str, float]]
) -> tuple[dict[str, float], Thresholds, float]:
    """Of several threshold settings those of highest pixel F1 on the drawn defects, the
    thresholds they give, and that F1. The first of equals wins."""
    best: tuple[dict[str, float], Thresholds, float] | None = None
    for chosen in combinations:
        values = {setting.partition(".")[2]: number for setting, number in chosen.items()}
        settings = validate(ThresholdSettings, dump(base) | values, "threshold.")
        thresholds = choose_thresholds(scored, settings)
        f1 = pixel_f1(scored, thresholds.pixel)
        if best is None or f1 > best[2]:
            best = chosen, thresholds, f1
    assert best is not None
    return best


def pixel_f1(scored: Scored, threshold: float) -> float:
    """F1 of the flagged pixels over all images; 0 where none is both flagged and defective."""
    hit = flagged = defective = 0
    for values, mask in zip(scored.maps, scored.masks, strict=True):
        predicted = values > threshold
        hit += int(np.count_nonzero(predicted & mask))
        flagged += int(np.count_nonzero(predicted))
        defective += int(np.count_nonzero(mask))
    return 2 * hit / (flagged + defective) if flagged + defective else 0.0


def _draw(trial: optuna.Trial, name: str, distribution: Any) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(
        name, distribution.low, distribution.high, log=distribution.log, step=distribution.step
    )


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
