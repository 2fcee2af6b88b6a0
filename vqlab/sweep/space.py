"""What a sweep searches: which settings, over which values, for which metric. Data, not code."""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, model_validator

from vqlab.config import Settings, Tree, dump, flatten, merge, nest, validate
from vqlab.detectors import detector_class
from vqlab.run import RunConfig, resolve
from vqlab.types import UserError

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "pixel_auroc": "maximize",
    "pixel_ap": "maximize",
    "pixel_f1max": "maximize",
    "pixel_iou": "maximize",
    "aupro": "maximize",
    "image_auroc": "maximize",
    "image_ap": "maximize",
    "image_f1max": "maximize",
    "false_reject_rate": "minimize",
    "escape_rate": "minimize",
}
"""The validation metrics a sweep may look at, and which way is better."""
COSTS = ("cost/cpu_seconds_per_image", "cost/parameters")
"""What a further objective or a limit may be, besides: less is better."""
_JUDGE = (
    "data.root data.categories data.joint data.held_out data.synthetic_defects data.seed "
    "data.validation data.validation.source data.validation.fraction"
)
SCORING = "detector.scoring"
_GRID = 7
"""Values tried of a threshold setting that is given as a range without a step."""
_UNSEEN = ("training.device", "training.threads", "training.validate_every", "data.root")
"""Settings that do not change what a trial comes to: a study goes on when they change."""


class Axis(Settings):
    """The values of one setting: `choices`, or a range from `low` to `high` (both included)."""

    choices: tuple[Any, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = Field(None, gt=0)


class Limit(Settings):
    """What a trial's metric must not pass for the trial to be chosen."""

    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Limit:
        if (self.low is None) == (self.high is None):
            raise ValueError("must be {low: NUMBER} or {high: NUMBER}")
        return self

    def beyond(self, value: float) -> float:
        """How far a value lies beyond it; at most 0 where it is kept."""
        return value - self.high if self.high is not None else (self.low or 0.0) - value


@dataclass(frozen=True)
class Space:
    """The settings to search by dotted path, and the metrics that decide: the first one chooses
    the winner, further ones make a Pareto front with it."""

    objectives: tuple[str, ...]
    axes: dict[str, Axis]
    validations: int = 3
    """Validations within a trial, by which it may be pruned; each calibrates the detector anew.
    With several objectives nothing is pruned."""
    scorings: int = 48
    """Settings of the scoring that are tried within a trial, on the trained detector."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """By metric of a trial: `validation/…`, `codebook/…`, `cost/…`."""

    @property
    def objective(self) -> str:
        """The metric that chooses the winner."""
        return self.objectives[0]

    @property
    def tree(self) -> Tree:
        """What `make_space` makes this space of."""
        return {
            "objective": list(self.objectives),
            "validations": self.validations,
            "scorings": self.scorings,
            "limits": {name: dump(limit) for name, limit in self.limits.items()},
            "space": {name: dump(axis) for name, axis in self.axes.items()},
        }

    def validate_every(self, epochs: int) -> int:
        """Epochs between a trial's validations; 0 for none but the last."""
        every = math.ceil(epochs / (self.validations + 1))
        return every if self.validations and every < epochs else 0

    def warmup(self, epochs: int) -> int:
        """Epochs before which nothing is pruned: the first of several validations says too
        little."""
        return self.validate_every(epochs) + 1 if self.validations > 1 else 0

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """`maximize` or `minimize`, for each objective."""
        return [OBJECTIVES.get(name.rpartition("/")[2], "minimize") for name in self.objectives]


class _SpaceFile(Settings):
    objective: str | tuple[str, ...] = "validation/pixel_auroc"
    validations: int = Field(3, ge=0)
    scorings: int = Field(48, ge=1)
    limits: dict[str, Limit] = {}
    space: dict[str, dict[str, Any]]


def make_space(tree: Mapping[str, Any]) -> Space:
    """A space from `{"objective": …, "validations": …, "space": {setting: {"choices": …}}}`."""
    raw = validate(_SpaceFile, tree)
    axes = {}
    for setting, values in raw.space.items():
        axes[setting] = axis = validate(Axis, values, f"space.{setting}.")
        ends = [end for end in (axis.low, axis.high) if end is not None]
        if (len(ends) != 2) if axis.choices is None else (ends or not axis.choices):
            raise UserError(
                f"space {setting} must be {{choices: [...]}} or {{low: ..., high: ...}}; "
                f"got {dict(values)}."
            )
    if not axes:
        raise UserError("a sweep's space must name at least one setting; got none.")
    for metric in raw.limits:
        _check_limited(metric)
    return Space(checked_objectives(raw.objective), axes, raw.validations, raw.scorings, raw.limits)


def checked_objectives(given: str | Sequence[str]) -> tuple[str, ...]:
    """The objectives, if a sweep may have them. Raises UserError saying why it may not."""
    names = (given,) if isinstance(given, str) else tuple(given)
    if not names or len(set(names)) < len(names):
        raise UserError(f"a sweep's objectives must be one or more, each once; got {list(names)}.")
    return checked_objective(names[0]), *(
        name if name in COSTS else checked_objective(name) for name in names[1:]
    )


def _check_limited(metric: str) -> None:
    split, _, name = metric.partition("/")
    if split == "test":
        checked_objective(metric)
    if split not in ("validation", "codebook", "cost") or not name:
        raise UserError(
            f"a sweep's limit must be on validation/…, codebook/… or {', '.join(COSTS)}; got "
            f"{metric!r}."
        )


def checked_objective(objective: str) -> str:
    """The objective, if a sweep may have it. Raises UserError saying why it may not."""
    split, _, name = objective.partition("/")
    if split == "test":
        raise UserError(
            f"a sweep's objective must be a validation metric; got {objective!r}: what is chosen "
            f"by the test set says nothing about new images; use validation/{name or 'aupro'}."
        )
    if split != "validation" or name.rpartition("/")[2] not in OBJECTIVES:
        near = difflib.get_close_matches(objective, [f"validation/{n}" for n in OBJECTIVES], n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(OBJECTIVES)}."
        if objective in COSTS:
            hint = "a cost may only come second, as in [validation/pixel_auroc, cost/parameters]."
        raise UserError(
            f"a sweep's objective must be validation/<metric>; got {objective!r}; {hint}"
        )
    return objective


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
        own: list[Any] = [{name: dump(axis) for name, axis in self.space.axes.items()}, seen]
        limits = {name: dump(limit) for name, limit in self.space.limits.items()}
        return [*own, self.space.scorings, limits]


def plan(space: Space, tree: Tree) -> Plan:
    """Check every value of `space` against the settings, before any work.

    Raises UserError for an unknown setting, an impossible value, a setting that a sweep must not
    choose.
    """
    config = resolve(tree)
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
    return Plan(space, tree, config, sampled, scoring, image_scoring, thresholds)


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
    return all(kind.rescorable(own, other) for other in wanted)


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
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _encode(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
