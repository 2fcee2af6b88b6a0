"""Search the scoring settings of a trained detector without retraining.

Settings of the map are selected by a pixel metric, also on synthetic anomalies; those of the image
score by image AUROC, on real defects only (docs/validation.md).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import TPESampler

from vqlab.config import Settings, Tree, dump, with_settings
from vqlab.data import Splits
from vqlab.detectors import Extracted, HasNormalization, extract
from vqlab.evaluation import (
    MEAN,
    CategoryEvidence,
    Scored,
    choose_thresholds,
    evaluate,
    extract_images,
    paired_differences,
    score_extracted,
)
from vqlab.metrics import METRICS
from vqlab.model import Model
from vqlab.run import RunConfig, calibrate, resolve, unseen_in_fitting
from vqlab.sweep.space.compile import Plan, scoring_of
from vqlab.sweep.study.winner import MARGIN
from vqlab.training import seed_everything
from vqlab.types import UserError

BY_PIXELS, BY_IMAGES = "pixel_auroc", "image_auroc"
COMPARED = 5
"""Number of best scorings that are compared with the recipe's by the paired bootstrap."""
UNCHANGED = "the recipe, as none was clearly better"


@dataclass(frozen=True)
class ScoringChoice:
    """Result of a search. The detector has the chosen scoring."""

    tree: Tree
    """Settings of the trial, with the chosen ones."""
    scored: Scored
    """The validation set, scored with them."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """Chosen settings, as in a recipe."""
    rules: dict[str, str] = field(default_factory=dict)
    """Metric that selected each setting, or `UNCHANGED`."""
    evaluated: int = 0
    seconds: float = 0.0


def search_scoring(
    model: Model, splits: Splits, config: RunConfig, plan: Plan, seed: int
) -> ScoringChoice:
    """Try up to `plan.space.scorings` settings of the map, then as many of the image score.

    The model may have been calibrated with another scoring. Its detector is left with the chosen
    one, or with that of the trial if nothing is searched.
    """
    started = time.monotonic()
    search = _Search(model, splits, config, plan, seed)
    name = plan.space.objective.rpartition("/")[2]
    pixels = name if METRICS[name].level != "image" else BY_PIXELS
    chosen: dict[str, Any] = {}
    rules: dict[str, str] = {}
    for axes, metric in ((plan.scoring, pixels), (plan.image_scoring, BY_IMAGES)):
        if axes:
            selected, clear = search.best(axes, chosen, metric)
            chosen |= selected
            rules |= {name: f"validation/{metric}" if clear else UNCHANGED for name in selected}
    tree, scored = search.keep(chosen)
    return ScoringChoice(tree, scored, chosen, rules, search.evaluated, time.monotonic() - started)


class _Search:
    def __init__(
        self, model: Model, splits: Splits, config: RunConfig, plan: Plan, seed: int
    ) -> None:
        self.model, self.splits = model, splits
        self.detector, self.config, self.plan, self.seed = model.detector, config, plan, seed
        self.evaluated = 0
        self.real = config.data.validation.source == "test"
        self.unseen: list[Extracted] = []
        if isinstance(self.detector, HasNormalization):
            with torch.inference_mode():
                below = config.training.unseen_below
                unseen = unseen_in_fitting(model.features(splits.train), below)
                self.unseen = [extract(self.detector, sample) for sample in unseen]
        self.validation = extract_images(self.detector, model.features(splits.validation))
        whole: Any = self.detector.config
        self._calibrated: Settings = getattr(whole, "scoring", Settings())
        self._current: Settings | None = None

    def best(
        self, axes: Mapping[str, BaseDistribution], fixed: Mapping[str, Any], metric: str
    ) -> tuple[dict[str, Any], bool]:
        """Return the settings on `axes` with the highest value of a metric, and True; or those of
        the recipe, and False, if no others are clearly better on synthetic anomalies."""
        values: dict[str, float] = {}
        trees: dict[str, dict[str, Any]] = {}

        def value_of(params: Mapping[str, Any]) -> float:
            settings = {name: self.plan.decoded(name, value) for name, value in params.items()}
            key = repr(settings)
            if key not in values:
                self.evaluated += 1
                trees[key] = settings
                values[key] = self._measure({**fixed, **settings}, metric)
            return values[key]

        params = self.plan.recipe_params(axes)
        in_recipe = None
        if len(params) == len(axes):
            value_of(params)
            in_recipe = next(iter(values))
        _try(axes, self.plan.space.scorings, self.seed, value_of)
        ranked = sorted(values, key=lambda key: values[key], reverse=True)
        if in_recipe is None or self.real:
            return trees[ranked[0]], True
        least = values[in_recipe] + MARGIN
        for key in [key for key in ranked if values[key] > least][:COMPARED]:
            if self._clearly_better({**fixed, **trees[in_recipe]}, {**fixed, **trees[key]}, metric):
                return trees[key], True
        return trees[in_recipe], False

    def _clearly_better(
        self, reference: Mapping[str, Any], chosen: Mapping[str, Any], metric: str
    ) -> bool:
        """Return whether settings are better by more than `MARGIN`, beyond the uncertainty over
        images and kinds of anomalies, see `WinnerRule`."""
        before, after = (self._evidence(each) for each in (reference, chosen))
        paired = paired_differences(before, after, names=[metric], by_kind=True)
        category = MEAN if len(before) > 1 else next(iter(before))
        difference = paired.differences[category].get(metric)
        return difference is not None and (difference.interval or (-math.inf,))[0] > MARGIN

    def _evidence(self, chosen: Mapping[str, Any]) -> dict[str, CategoryEvidence]:
        _, scored = self.rescore(chosen)
        thresholds = choose_thresholds(scored, self.config.threshold)
        report = evaluate(scored, thresholds, keep_evidence=True)
        return {
            category: CategoryEvidence(report.per_category[category], evidence)
            for category, evidence in report.evidence.items()
        }

    def rescore(self, chosen: Mapping[str, Any]) -> tuple[Tree, Scored]:
        tree = with_settings(dump(self.config), chosen)
        return tree, self._score(resolve(tree))

    def keep(self, chosen: Mapping[str, Any]) -> tuple[Tree, Scored]:
        """Like `rescore`, but recalibrate a detector without `fit_normalization`."""
        tree, scored = self.rescore(chosen)
        if self._current == self._calibrated or isinstance(self.detector, HasNormalization):
            return tree, scored
        seed_everything(self.config.training.seed, self.config.training.epochs + 1)
        below = self.config.training.unseen_below
        calibrate(self.detector, self.model.features(self.splits.train), below)
        return tree, self.model.score_set(self.splits.validation)

    def _measure(self, chosen: Mapping[str, Any], metric: str) -> float:
        """Return the metric; −inf if it is undefined or the settings are incompatible."""
        try:
            _, scored = self.rescore(chosen)
        except UserError:
            return -math.inf
        report = evaluate(scored, choose_thresholds(scored, self.config.threshold))
        return report.mean.get(metric, -math.inf)

    @torch.inference_mode()
    def _score(self, config: RunConfig) -> Scored:
        scoring = scoring_of(config)
        if scoring != self._current:
            whole: Any = self.detector.config
            self.detector.config = whole.model_copy(update={"scoring": scoring})
            if isinstance(self.detector, HasNormalization):
                self.detector.fit_normalization(self.unseen)
            self._current = scoring
        return score_extracted(self.detector, self.validation)


def _try(
    axes: Mapping[str, BaseDistribution],
    most: int,
    seed: int,
    value_of: Callable[[Mapping[str, Any]], float],
) -> None:
    """Evaluate all combinations if there are at most `most`, else as many suggestions of TPE."""
    choices = [list(d.choices) for d in axes.values() if isinstance(d, CategoricalDistribution)]
    if len(choices) == len(axes) and math.prod(map(len, choices)) <= most:
        for values in itertools.product(*choices):
            value_of(dict(zip(axes, values, strict=True)))
        return
    word = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=word))
    for _ in range(most):
        trial = study.ask(dict(axes))
        study.tell(trial, max(value_of(trial.params), -1e9))
