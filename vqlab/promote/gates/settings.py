"""Section `gates`: the requirements of a promotion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, field_validator

from vqlab.config import Settings, parse_overrides, validate
from vqlab.errors import UserError
from vqlab.metrics import OBJECTIVES

OnFailure = Literal["refuse", "warn", "ignore"]
Rule = Literal["not_worse", "non_inferior", "superior"]


class GateSettings(Settings):
    """Section `gates`, set on the command line: `vqlab promote -c cable gates.margin=0.05`."""

    metrics: tuple[str, ...] = ("image_auroc", "aupro", "escape_rate")
    """Test metrics in which the model is compared with the champion; `escape_rate` only if both
    thresholds promise the same false-reject rate. Undefined metrics are omitted."""
    rule: Rule = "not_worse"
    """`not_worse`: no metric is worse by more than `margin`, and at least one is better by more
    than `min_delta`; `non_inferior`: the 95 % intervals of the differences exclude a loss above
    `margin` too; `superior`: the interval of at least one excludes a gain up to `min_delta` too."""
    margin: float = Field(default=0.02, ge=0, le=1)
    """Maximum tolerated loss of a metric."""
    min_delta: float = 0.0
    """Minimum improvement over the champion."""
    metric: str | None = None
    """Compare only the value of this metric, e.g. `test/pixel_auroc`, instead of `metrics` and
    `rule`."""
    resamples: int = Field(default=1000, ge=100, le=100_000)
    """Bootstrap resamples of the test images for the intervals."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""
    codebook: OnFailure = "refuse"
    """If a codebook is dead (collapsed to a few codes)."""
    promise: OnFailure = "refuse"
    """If significantly more normal test images are rejected than the threshold promises."""
    shifts: OnFailure = "refuse"
    """If significantly more normal test images than promised are rejected under a capture shift
    that the model was trained to tolerate (`data.shifts`). Others only lead to a warning."""
    shift_images: int = Field(default=20, ge=0)
    """Maximum number of normal, and of anomalous, test images scored under capture shifts; 0:
    none."""
    baseline: OnFailure = "warn"
    """If the image AUROC is not significantly better than that of the no-learning baseline."""
    code: OnFailure = "warn"
    """If the code used in training differs from its commit."""
    max_latency_ms: float | None = Field(default=None, gt=0)
    """Maximum time per image in milliseconds, from file to score, in a fresh process."""
    max_memory_mib: float | None = Field(default=None, gt=0)
    """Maximum peak memory in MiB of a fresh process that scores images."""

    @field_validator("metrics")
    @classmethod
    def _comparable(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in OBJECTIVES:
                raise ValueError(f"must be among {', '.join(OBJECTIVES)}; got {name!r}")
        return names


def gate_settings(
    overrides: Iterable[str] = (), *, metric: str | None = None, min_delta: float | None = None
) -> GateSettings:
    """Return the settings in overrides such as `gates.margin=0.05`.

    metric, min_delta: precede the overrides. Raises UserError for an unknown or invalid setting.
    """
    tree = parse_overrides(overrides)
    for section in tree:
        if section != "gates":
            names = ", ".join(f"gates.{name}" for name in GateSettings.model_fields)
            raise UserError(f"setting {section} does not exist; choose one of {names}.")
    if not isinstance(tree.get("gates", {}), dict):
        raise UserError(f"setting gates must be a section; got {tree['gates']!r}.")
    options = {"metric": metric, "min_delta": min_delta}
    chosen = {key: value for key, value in options.items() if value is not None}
    return validate(GateSettings, chosen | tree.get("gates", {}), "gates.")
