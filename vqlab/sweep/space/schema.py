"""Schema of a search space: settings, their values, objectives and constraints."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from vqlab.config import Settings, Tree, dump, validate
from vqlab.metrics import METRICS, OBJECTIVES
from vqlab.types import UserError

COSTS = ("cost/cpu_seconds_per_image", "cost/parameters")
"""Costs, which may be further objectives or constraints; lower is better."""

BACKBONE = "features.backbone"
"""The setting whose choices may depend on the machine."""


class Axis(Settings):
    """The values of one setting: `choices`, or a range from `low` to `high` (both included)."""

    choices: tuple[Any, ...] | None = None
    available: tuple[str, ...] | None = None
    """Backbones to search if they are available on this machine; see `backbones`."""
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @property
    def tree(self) -> Tree:
        """The input of `make_space`; stable across versions, because names of sweeps depend on
        it."""
        tree = dump(self)
        return (
            tree if self.available is not None else {k: tree[k] for k in tree if k != "available"}
        )


class Limit(Settings):
    """Constraint on a metric. A trial that violates it wins only if all trials do."""

    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Limit:
        if (self.low is None) == (self.high is None):
            raise ValueError("must be {low: NUMBER} or {high: NUMBER}")
        return self

    def violation(self, value: float) -> float:
        """Return by how much a value violates the constraint; at most 0 if it does not."""
        return value - self.high if self.high is not None else (self.low or 0.0) - value


@dataclass(frozen=True)
class Space:
    """Settings to search, and the objectives: the first one selects the winner, further ones form
    a Pareto front with it."""

    objectives: tuple[str, ...]
    axes: dict[str, Axis]
    validations: int = 3
    """Intermediate validations of a trial, for pruning; each calibrates the detector. With several
    objectives nothing is pruned."""
    scorings: int = 48
    """Scoring settings that are evaluated on each trained detector."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """Constraints by metric of a trial: `validation/…`, `codebook/…`, `cost/…`."""

    @property
    def objective(self) -> str:
        """The metric that selects the winner."""
        return self.objectives[0]

    @property
    def tree(self) -> Tree:
        """The input of `make_space`."""
        return {
            "objective": list(self.objectives),
            "validations": self.validations,
            "scorings": self.scorings,
            "limits": {name: dump(limit) for name, limit in self.limits.items()},
            "space": {name: axis.tree for name, axis in self.axes.items()},
        }

    def validate_every(self, epochs: int) -> int:
        """Return the epochs between validations; 0: only after the last epoch."""
        every = math.ceil(epochs / (self.validations + 1))
        return every if self.validations and every < epochs else 0

    def warmup(self, epochs: int) -> int:
        """Return the first epoch that may be pruned: not the first of several validations."""
        return self.validate_every(epochs) + 1 if self.validations > 1 else 0

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """`maximize` or `minimize`, for each objective."""
        metrics = [METRICS.get(name.rpartition("/")[2]) for name in self.objectives]
        return ["maximize" if m and m.greater_is_better else "minimize" for m in metrics]


class _SpaceFile(Settings):
    objective: str | tuple[str, ...] = "validation/pixel_auroc"
    validations: int = Field(3, ge=0)
    scorings: int = Field(48, ge=1)
    limits: dict[str, Limit] = {}
    space: dict[str, dict[str, Any]]


def make_space(tree: Mapping[str, Any]) -> Space:
    """Return the space of `{"objective": …, "validations": …, "space": {setting: values}}`."""
    raw = validate(_SpaceFile, tree)
    axes = {}
    for setting, values in raw.space.items():
        axes[setting] = axis = validate(Axis, values, f"space.{setting}.")
        _check_axis(setting, axis, values)
    if not axes:
        raise UserError("a search space must have at least one setting; got none.")
    for metric in raw.limits:
        _check_limited(metric)
    return Space(checked_objectives(raw.objective), axes, raw.validations, raw.scorings, raw.limits)


def _check_axis(setting: str, axis: Axis, values: Mapping[str, Any]) -> None:
    ends = [end for end in (axis.low, axis.high) if end is not None]
    if axis.available is not None:
        if setting != BACKBONE or ends or axis.choices is not None or not axis.available:
            raise UserError(
                f"space {setting} must not be {dict(values)}; {{available: [...]}} is only "
                f"possible for {BACKBONE}."
            )
    elif (len(ends) != 2) if axis.choices is None else (ends or not axis.choices):
        raise UserError(
            f"space {setting} must be {{choices: [...]}} or {{low: ..., high: ...}}; "
            f"got {dict(values)}."
        )


def checked_objectives(objectives: str | Sequence[str]) -> tuple[str, ...]:
    """Return the objectives. Raises UserError if a sweep may not have them."""
    names = (objectives,) if isinstance(objectives, str) else tuple(objectives)
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
            f"a constraint must be on validation/…, codebook/… or {', '.join(COSTS)}; got "
            f"{metric!r}."
        )


def checked_objective(objective: str) -> str:
    """Return the objective. Raises UserError if a sweep may not have it."""
    split, _, name = objective.partition("/")
    if split == "test":
        raise UserError(
            f"a sweep's objective must be a validation metric; got {objective!r}: selecting on "
            f"the test set would bias its metrics; use validation/{name or 'aupro'}."
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
