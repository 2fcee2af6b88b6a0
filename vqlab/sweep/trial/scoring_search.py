"""Search the scoring settings of a trained detector, without training again.

What may be chosen by what follows the evidence on real images: settings of the map by a pixel
metric, also on drawn defects; those of the image score by image AUROC, on real defects only.
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

from vqlab.config import Settings, Tree, dump, merge, nest
from vqlab.data import Splits
from vqlab.detectors import Extracted, HasNormalization, extract
from vqlab.evaluation import (
    Scored,
    choose_thresholds,
    evaluate,
    extract_images,
    score_extracted,
)
from vqlab.metrics import METRICS
from vqlab.model import Model
from vqlab.run import RunConfig, calibrate, resolve, unseen_in_fitting
from vqlab.sweep.space.compile import Plan, scoring_of, suggest
from vqlab.training import seed_everything
from vqlab.types import UserError

BY_PIXELS, BY_IMAGES = "pixel_auroc", "image_auroc"
CLEARLY = 0.01
"""By as much must a scoring be better on drawn defects for the recipe's own to give way: smaller
differences say nothing of real ones (docs/validation.md)."""
OWN = "the recipe, as none was clearly better"


@dataclass(frozen=True)
class ScoringChoice:
    """What the search came to; the model's detector is left with the chosen scoring."""

    tree: Tree
    """The trial's settings with the chosen ones in place."""
    scored: Scored
    """The validation set by the chosen scoring."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """By setting, as a recipe spells values."""
    rules: dict[str, str] = field(default_factory=dict)
    """Which metric chose a setting, or `OWN`."""
    tried: int = 0
    seconds: float = 0.0


def search_scoring(
    model: Model, splits: Splits, config: RunConfig, plan: Plan, seed: int
) -> ScoringChoice:
    """Try up to `plan.space.scorings` settings of the map, then as many of the image score.

    The model may have been calibrated by another scoring than the trial's; it is left with the one
    that is chosen, the trial's own where nothing is searched.
    """
    started = time.monotonic()
    search = _Search(model, splits, config, plan, seed)
    name = plan.space.objective.rpartition("/")[2]
    pixels = name if METRICS[name].level != "image" else BY_PIXELS
    chosen: dict[str, Any] = {}
    rules: dict[str, str] = {}
    for axes, metric in ((plan.scoring, pixels), (plan.image_scoring, BY_IMAGES)):
        if axes:
            found, clear = search.best(axes, chosen, metric)
            chosen |= found
            rules |= {name: f"validation/{metric}" if clear else OWN for name in found}
    tree, scored = search.keep(chosen)
    return ScoringChoice(tree, scored, chosen, rules, search.tried, time.monotonic() - started)


class _Search:
    def __init__(
        self, model: Model, splits: Splits, config: RunConfig, plan: Plan, seed: int
    ) -> None:
        self.model, self.splits = model, splits
        self.detector, self.config, self.plan, self.seed = model.detector, config, plan, seed
        self.tried = 0
        self.real = config.data.validation.source == "test"
        self.unseen: list[Extracted] = []
        if isinstance(self.detector, HasNormalization):
            with torch.inference_mode():
                unseen = unseen_in_fitting(model.features(splits.train))
                self.unseen = [extract(self.detector, sample) for sample in unseen]
        self.validation = extract_images(self.detector, model.features(splits.validation))
        whole: Any = self.detector.config
        self._calibrated: Settings = getattr(whole, "scoring", Settings())
        self._now: Settings | None = None

    def best(
        self, axes: Mapping[str, BaseDistribution], fixed: Mapping[str, Any], metric: str
    ) -> tuple[dict[str, Any], bool]:
        """The settings on `axes`, beside those fixed, with the highest value of a metric, and True;
        the recipe's own, and False, where they are among them and none is clearly better."""
        values: dict[str, float] = {}
        trees: dict[str, dict[str, Any]] = {}

        def value_of(drawn: Mapping[str, Any]) -> float:
            own = {setting: self.plan.decoded(setting, value) for setting, value in drawn.items()}
            key = repr(own)
            if key not in values:
                self.tried += 1
                trees[key], values[key] = own, self._measure({**fixed, **own}, metric)
            return values[key]

        own = self.plan.own_params(axes)
        least = -math.inf
        if len(own) == len(axes):
            least = value_of(own) + (0.0 if self.real else CLEARLY)
        _try(axes, self.plan.space.scorings, self.seed, value_of)
        clear = [key for key in values if values[key] >= least]
        key = max(clear, key=lambda key: values[key]) if clear else next(iter(values))
        return trees[key], bool(clear)

    def rescore(self, chosen: Mapping[str, Any]) -> tuple[Tree, Scored]:
        tree = dump(self.config)
        for setting, value in chosen.items():
            tree = merge(tree, nest(setting, value))
        return tree, self._score(resolve(tree))

    def keep(self, chosen: Mapping[str, Any]) -> tuple[Tree, Scored]:
        """As `rescore`; a detector without `fit_normalization` is calibrated again."""
        tree, scored = self.rescore(chosen)
        if self._now == self._calibrated or isinstance(self.detector, HasNormalization):
            return tree, scored
        seed_everything(self.config.training.seed, self.config.training.epochs + 1)
        calibrate(self.detector, self.model.features(self.splits.train))
        return tree, self.model.score_set(self.splits.validation)

    def _measure(self, chosen: Mapping[str, Any], metric: str) -> float:
        """−inf where settings do not go together, or the metric is not defined."""
        try:
            _, scored = self.rescore(chosen)
        except UserError:
            return -math.inf
        report = evaluate(scored, choose_thresholds(scored, self.config.threshold))
        return report.mean.get(metric, -math.inf)

    @torch.inference_mode()
    def _score(self, config: RunConfig) -> Scored:
        wanted = scoring_of(config)
        if wanted != self._now:
            whole: Any = self.detector.config
            self.detector.config = whole.model_copy(update={"scoring": wanted})
            if isinstance(self.detector, HasNormalization):
                self.detector.fit_normalization(self.unseen)
            self._now = wanted
        return score_extracted(self.detector, self.validation)


def _try(
    axes: Mapping[str, BaseDistribution],
    most: int,
    seed: int,
    value_of: Callable[[Mapping[str, Any]], float],
) -> None:
    """All combinations where there are no more than that, else what TPE proposes."""
    choices = [list(d.choices) for d in axes.values() if isinstance(d, CategoricalDistribution)]
    if len(choices) == len(axes) and math.prod(map(len, choices)) <= most:
        for values in itertools.product(*choices):
            value_of(dict(zip(axes, values, strict=True)))
        return
    word = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    study = optuna.create_study(direction="maximize", sampler=TPESampler(seed=word))

    def proposed(trial: optuna.Trial) -> float:
        value = value_of({name: suggest(trial, name, axis) for name, axis in axes.items()})
        return max(value, -1e9)

    study.optimize(proposed, n_trials=most)
