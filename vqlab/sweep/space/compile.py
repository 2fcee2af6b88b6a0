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

from vqlab.config import Settings, Tree, dump, flatten, merge, nest, validate
from vqlab.detectors import can_rescore, detector_class
from vqlab.features import AUTO
from vqlab.run import RunConfig, resolve
from vqlab.sweep.space.backbones import choose_available
from vqlab.sweep.space.schema import BACKBONE, Axis, Space
from vqlab.types import UserError

_JUDGE = (
    "data.root data.good data.bad data.categories data.joint data.held_out data.synthetic_defects "
    "data.seed data.validation data.validation.source data.validation.fraction"
)
SCORING = "detector.scoring"
_GRID = 7
"""Values tried of a threshold setting that is given as a range without a step."""
_UNSEEN = (
    "training.device", "training.threads", "training.validate_every", "data.root", "data.good",
    "data.bad",
)  # fmt: skip
"""Settings that do not change what a trial comes to: a study goes on when they change."""


@dataclass(frozen=True)
class Plan:
    """A space that was checked against the settings of one base recipe."""

    space: Space
    tree: Tree
    """The base recipe's tree, one model's categories in it."""
    config: RunConfig
    """The base recipe resolved."""
    sampled: dict[str, BaseDistribution]
    """What Optuna draws, by setting. A choice that is no scalar is drawn as its JSON."""
    scoring: dict[str, BaseDistribution]
    """What is searched within each trial on what the trained detector read, by setting."""
    image_scoring: dict[str, BaseDistribution]
    """Likewise, of what makes an image score of the map."""
    thresholds: dict[str, tuple[float, ...]]
    """What is searched within each trial after that."""
    note: str = ""
    """Which backbones are searched and which are left out, where the space asks for those that are
    available."""

    def tree_of(self, params: Mapping[str, Any]) -> Tree:
        """The base recipe's tree with sampled (and threshold) values in place."""
        tree = self.tree
        for setting, value in params.items():
            tree = merge(tree, nest(setting, self.decoded(setting, value)))
        return tree

    def decoded(self, setting: str, value: Any) -> Any:
        """A value as the settings take it: a choice that is no scalar was drawn as its JSON."""
        encoded = isinstance(value, str) and value in self._encoded(setting)
        return json.loads(value) if encoded else value

    def _encoded(self, setting: str) -> tuple[str, ...]:
        axis = self.space.axes.get(setting)
        return tuple(_encode(c) for c in (axis.choices if axis else None) or () if not _scalar(c))

    def own_params(self, among: Mapping[str, BaseDistribution] | None = None) -> dict[str, Any]:
        """The base recipe's own values of what is sampled (or of `among`), as far as they lie
        inside the space."""
        own = flatten(dump(self.config))
        inside = {}
        for setting, distribution in (self.sampled if among is None else among).items():
            value = own.get(setting)
            value = value if _scalar(value) else _encode(value)
            if _contains(distribution, value):
                inside[setting] = value
        return inside

    def threshold_settings(self) -> Iterator[dict[str, float]]:
        """Every combination of the threshold settings; none where they are not searched."""
        if self.thresholds:
            for values in itertools.product(*self.thresholds.values()):
                yield dict(zip(self.thresholds, values, strict=True))

    @property
    def marks(self) -> list[Any]:
        """The axes and the settings: what makes another study where it changes."""
        seen = {k: v for k, v in flatten(dump(self.config)).items() if k not in _UNSEEN}
        own: list[Any] = [{name: axis.tree for name, axis in self.space.axes.items()}, seen]
        limits = {name: dump(limit) for name, limit in self.space.limits.items()}
        return [*own, self.space.scorings, limits]


def plan(space: Space, tree: Tree) -> Plan:
    """Check every value of `space` against the settings, before any work.

    `{available: [...]}` becomes the choices that can be had on this machine, or no axis where only
    the recipe's own can. Raises UserError for an unknown setting, an impossible value, a setting
    that a sweep must not choose.
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
        _refuse_judges(setting)
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
    """Raises UserError where drawn defects would choose it: they rank settings by pixel metrics
    well and by image metrics badly."""
    section, _, name = setting.rpartition(".")
    if section != SCORING or name not in detector_class(config.detector["name"]).image_scoring:
        return False
    if config.data.validation.source != "test":
        raise UserError(
            f"space {setting} must not be searched on drawn defects, which do not tell image "
            "scores apart as real ones do; set it in the recipe, or give real defects to "
            "validation: data.validation.source=test."
        )
    return True


def _needs_no_training(setting: str, axis: Axis, tree: Tree) -> bool:
    """Whether a detector calibrated by the recipe's scoring can be scored by all of the values."""
    if not setting.startswith(f"{SCORING}."):
        return False
    values = (axis.low, axis.high) if axis.choices is None else axis.choices
    own = scoring_of(resolve(tree))
    kind = detector_class(resolve(tree).detector["name"])
    wanted = (scoring_of(resolve(merge(tree, nest(setting, value)))) for value in values)
    return all(can_rescore(kind, own, other) for other in wanted)


def scoring_of(config: RunConfig) -> Settings:
    """The detector's section `scoring`, as its settings."""
    rest = {key: value for key, value in config.detector.items() if key != "name"}
    settings = validate(detector_class(config.detector["name"]).Config, rest, "detector.")
    scoring: Settings = getattr(settings, "scoring", Settings())
    return scoring


def _refuse_judges(setting: str) -> None:
    if setting in _JUDGE.split() or setting == "data":
        raise UserError(
            f"space {setting} must not be searched: trials are compared on the same validation "
            "images; set it in the recipe."
        )
    if setting in ("threshold.false_reject_rate", "threshold.method"):
        raise UserError(
            f"space {setting} must not be searched: how many good parts may be rejected is a "
            "person's decision; set it in the recipe."
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
            f"space {setting} must have choices, for it is no number; got low and high."
        )
    if not low < high or (axis.log and low <= 0):
        raise UserError(
            f"space {setting} must have low < high{', low > 0' if axis.log else ''}; "
            f"got {axis.low} and {axis.high}."
        )
    if axis.log and axis.step is not None:
        raise UserError(f"space {setting} must have log or step; got both.")
    if isinstance(low, int):
        if axis.step is not None and axis.step != int(axis.step):
            raise UserError(f"space {setting} must have a whole step; got {axis.step}.")
        return IntDistribution(low, int(high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(low, float(high), log=axis.log, step=axis.step)


def _resolved(setting: str, value: Any, tree: Tree) -> Any:
    """`value` as the settings take it: `"1e-4"` becomes a number. UserError if they don't."""
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
        raise UserError(f"space {setting} must be one setting; it is a section of several.")
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
