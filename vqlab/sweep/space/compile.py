"""Compile a search space against the settings of a recipe."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vqlab.config import Settings, Tree, dump, flatten, merge, nest, validate, with_settings
from vqlab.data import AREA_FILES
from vqlab.detectors import can_rescore, detector_class
from vqlab.features import AUTO
from vqlab.run import RunConfig, resolve
from vqlab.sweep.space.backbones import choose_available
from vqlab.sweep.space.schema import BACKBONE, Axis, Space
from vqlab.types import UserError

_COMPARED_ON = (
    "data.root data.good data.bad data.roi data.ignore data.categories data.joint data.held_out "
    "data.synthetic_defects data.seed data.validation data.validation.source "
    "data.validation.kinds data.validation.fraction"
)
SCORING = "detector.scoring"
_GRID = 7
"""Number of values of a threshold setting that is a range without a step."""
_IRRELEVANT = (
    "training.device", "training.threads", "training.validate_every", "data.root", "data.good",
    "data.bad", "data.mm_per_pixel",
)  # fmt: skip
"""Settings that do not change the result of a trial: a sweep continues if they change."""
_RECENT = ("threshold.review_rate",)
"""Settings that earlier versions lack; earlier sweeps continue unless they are set."""


@dataclass(frozen=True)
class Plan:
    """A space that was checked against the settings of one base recipe."""

    space: Space
    tree: Tree
    """Settings of the recipe, with the categories of the model."""
    config: RunConfig
    """The recipe, resolved."""
    sampled: dict[str, BaseDistribution]
    """Settings that Optuna samples. A choice that is not a scalar is sampled as JSON text."""
    scoring: dict[str, BaseDistribution]
    """Settings of the anomaly map that are searched within each trial."""
    image_scoring: dict[str, BaseDistribution]
    """Settings of the image score that are searched within each trial."""
    thresholds: dict[str, tuple[float, ...]]
    """Threshold settings, which are searched last."""
    note: str = ""
    """Note on the `available` backbones that are searched."""

    def tree_of(self, params: Mapping[str, Any]) -> Tree:
        """Return the settings of the recipe with these values set."""
        values = {setting: self.decoded(setting, value) for setting, value in params.items()}
        return with_settings(self.tree, values)

    def decoded(self, setting: str, value: Any) -> Any:
        """Return a sampled value as the settings accept it: JSON text is decoded."""
        encoded = isinstance(value, str) and value in self._encoded(setting)
        return json.loads(value) if encoded else value

    def _encoded(self, setting: str) -> tuple[str, ...]:
        axis = self.space.axes.get(setting)
        return tuple(_encode(c) for c in (axis.choices if axis else None) or () if not _scalar(c))

    def recipe_params(self, among: Mapping[str, BaseDistribution] | None = None) -> dict[str, Any]:
        """Return the recipe's values of the sampled settings (or of `among`), if they lie in the
        space."""
        settings = flatten(dump(self.config))
        inside = {}
        for setting, distribution in (self.sampled if among is None else among).items():
            value = settings.get(setting)
            value = value if _scalar(value) else _encode(value)
            if _contains(distribution, value):
                inside[setting] = value
        return inside

    def threshold_settings(self) -> Iterator[dict[str, float]]:
        """Yield all combinations of the searched threshold settings."""
        if self.thresholds:
            for values in itertools.product(*self.thresholds.values()):
                yield dict(zip(self.thresholds, values, strict=True))

    @property
    def marks(self) -> list[Any]:
        """Axes and settings; a change starts a new sweep."""
        settings = {
            name: value
            for name, value in flatten(dump(self.config)).items()
            if name not in _IRRELEVANT and not name.startswith(AREA_FILES)
            if value is not None or name not in _RECENT
        }
        axes = {name: axis.tree for name, axis in self.space.axes.items()}
        limits = {name: dump(limit) for name, limit in self.space.limits.items()}
        return [axes, settings, self.space.scorings, limits]


def plan(space: Space, tree: Tree) -> Plan:
    """Check every value of `space` against the settings of a recipe.

    `{available: [...]}` becomes the backbones that are available on this machine; the axis is
    removed if there is only one. Raises UserError for unknown settings, invalid values and
    settings that a sweep must not choose.
    """
    config = resolve(tree)
    if flatten(tree).get(BACKBONE) == AUTO:
        tree = merge(tree, nest(BACKBONE, config.features.backbone))
    space, note = choose_available(space, config)
    sampled: dict[str, BaseDistribution] = {}
    scoring: dict[str, BaseDistribution] = {}
    image_scoring: dict[str, BaseDistribution] = {}
    thresholds: dict[str, tuple[float, ...]] = {}
    for setting, axis in space.axes.items():
        _refuse_fixed(setting)
        distribution = _distribution(setting, axis, tree)
        if setting.startswith("threshold."):
            thresholds[setting] = _grid(distribution)
        elif _of_the_image_score(setting, config):
            image_scoring[setting] = distribution
        elif _needs_no_training(setting, axis, tree):
            scoring[setting] = distribution
        else:
            sampled[setting] = distribution
    return Plan(space, tree, config, sampled, scoring, image_scoring, thresholds, note)


def _of_the_image_score(setting: str, config: RunConfig) -> bool:
    """Raise UserError if synthetic anomalies would select the setting: they rank settings well by
    pixel metrics, but badly by image metrics."""
    section, _, name = setting.rpartition(".")
    if section != SCORING or name not in detector_class(config.detector["name"]).image_scoring:
        return False
    if config.data.validation.source != "test":
        raise UserError(
            f"space {setting} must not be searched on synthetic anomalies, which rank image scores "
            "differently from real defects; set it in the recipe, or validate on real defects with "
            "data.validation.source=test."
        )
    return True


def _needs_no_training(setting: str, axis: Axis, tree: Tree) -> bool:
    """Return whether a detector calibrated with the recipe's scoring can be scored with all
    values."""
    if not setting.startswith(f"{SCORING}."):
        return False
    values = (axis.low, axis.high) if axis.choices is None else axis.choices
    calibrated = scoring_of(resolve(tree))
    kind = detector_class(resolve(tree).detector["name"])
    wanted = (scoring_of(resolve(merge(tree, nest(setting, value)))) for value in values)
    return all(can_rescore(kind, calibrated, other) for other in wanted)


def scoring_of(config: RunConfig) -> Settings:
    """Return the section `scoring` of the detector's settings."""
    rest = {key: value for key, value in config.detector.items() if key != "name"}
    settings = validate(detector_class(config.detector["name"]).Config, rest, "detector.")
    scoring: Settings = getattr(settings, "scoring", Settings())
    return scoring


def _refuse_fixed(setting: str) -> None:
    if setting in _COMPARED_ON.split() or setting == "data":
        raise UserError(
            f"space {setting} must not be searched: trials are compared on the same validation "
            "images; set it in the recipe."
        )
    if setting in ("threshold.false_reject_rate", "threshold.review_rate", "threshold.method"):
        raise UserError(
            f"space {setting} must not be searched: the tolerated share of rejected or reviewed "
            "good parts is a decision of the user; set it in the recipe."
        )


def _distribution(setting: str, axis: Axis, tree: Tree) -> BaseDistribution:
    if axis.choices is not None:
        values = [_resolved(setting, choice, tree) for choice in axis.choices]
        return CategoricalDistribution(
            list(dict.fromkeys(v if _scalar(v) else _encode(v) for v in values))
        )
    low, high = (_resolved(setting, end, tree) for end in (axis.low, axis.high))
    if isinstance(low, bool) or not isinstance(low, int | float):
        raise UserError(
            f"space {setting} must have choices, because it is not a number; got low and high."
        )
    if not low < high or (axis.log and low <= 0):
        raise UserError(
            f"space {setting} must have low < high{', low > 0' if axis.log else ''}; "
            f"got {axis.low} and {axis.high}."
        )
    if axis.log and axis.step is not None:
        raise UserError(f"space {setting} must not have both log and step; remove one.")
    if isinstance(low, int):
        if axis.step is not None and axis.step != int(axis.step):
            raise UserError(f"space {setting} must have an integer step; got {axis.step}.")
        return IntDistribution(low, int(high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(low, float(high), log=axis.log, step=axis.step)


def _resolved(setting: str, value: Any, tree: Tree) -> Any:
    """Return `value` as the settings accept it: `"1e-4"` becomes a number. Raises UserError."""
    section = setting.rpartition(".")[0]
    if not section:
        raise UserError(f"space {setting} must be a dotted setting such as detector.commitment.")
    try:
        resolved: Any = dump(resolve(merge(tree, nest(setting, value))))
    except UserError as error:
        raise UserError(f"space {setting} with the value {value!r}: {error}") from None
    for key in setting.split("."):
        resolved = resolved[key]
    if isinstance(resolved, Mapping):
        raise UserError(
            f"space {setting} must be a setting; it is a section with several settings."
        )
    return resolved


def _grid(distribution: BaseDistribution) -> tuple[float, ...]:
    if isinstance(distribution, CategoricalDistribution):
        return tuple(float(str(choice)) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        return tuple(float(v) for v in np.geomspace(low, high, _GRID))
    count = _GRID if step is None else math.floor((high - low) / step + 1e-9) + 1
    return tuple(float(v) for v in np.linspace(low, high, count))


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    steps = (value - distribution.low) / distribution.step if distribution.step else 0.0
    return distribution.low <= value <= distribution.high and abs(steps - round(steps)) < 1e-8


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _encode(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    """Return the value that the sampler suggests for `name`."""
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
