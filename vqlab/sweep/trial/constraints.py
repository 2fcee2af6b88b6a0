"""Constraints of a trial: costs and dead codebooks."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping

from vqlab.data import Splits
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.types import UserError

_N_TIMED = 8
"""Images for measuring the time per image."""
CONCEPT = "concept"
"""The codebook of whole images; all others are of positions."""
_PERPLEXITY = re.compile(r"codebook/(?:(?P<name>.+)_)?perplexity")


def costs(model: Model, splits: Splits, names: set[str]) -> dict[str, float]:
    """Return the costs of the model that are among `names`: parameters, and CPU-seconds per image
    (all threads, from file to score)."""
    values: dict[str, float] = {}
    if "cost/parameters" in names:
        every = [*model.detector.parameters(), *model.backbone.parameters()]
        values["cost/parameters"] = float(sum(weights.numel() for weights in every))
    if "cost/cpu_seconds_per_image" in names:
        few = splits.train.records[:_N_TIMED]
        started = time.process_time()
        for record in few:
            model.score(record.path)
        values["cost/cpu_seconds_per_image"] = (time.process_time() - started) / len(few)
    return values


def number(metrics: Mapping[str, float], name: str, report: Report) -> float:
    """Return a metric of a trial. Raises UserError if it is missing or not finite."""
    value = metrics.get(name)
    if value is None:
        names = ", ".join(sorted(metrics)) or "none"
        raise UserError(
            f"the objective {name} is not among the trial's metrics ({names}); "
            f"{' '.join(report.notes)}"
        )
    if not math.isfinite(value):
        raise UserError(f"the objective {name} must be finite; got {value}.")
    return value


def dead_codebook(metrics: Mapping[str, float], categories: int = 1) -> str:
    """Return why the first dead codebook counts as dead; empty if none does.

    metrics: those of `Detector.health`. Each codebook has `codebook/perplexity` or
    `codebook/<name>_perplexity`, `…dead_codes` and `…usage`. categories: number of categories that
    the model is trained on.
    """
    for name, perplexity, dead, usage in _books(metrics):
        if usage == 1:  # every code is used
            continue
        size = dead / (1 - usage)
        fault = (
            _one_for_all(perplexity, size, categories)
            if name == CONCEPT
            else _few_for_all(perplexity, size, usage)
        )
        if fault:
            which = f"dead codebook {name}" if name else "dead codebook"
            return f"{which}: {fault}"
    return ""


def _books(metrics: Mapping[str, float]) -> Iterator[tuple[str, float, float, float]]:
    """Yield name (empty for the only one), perplexity, dead codes and usage of each codebook."""
    for key, perplexity in metrics.items():
        named = _PERPLEXITY.fullmatch(key)
        if named is None:
            continue
        stem = key.removesuffix("perplexity")
        dead, usage = metrics.get(f"{stem}dead_codes"), metrics.get(f"{stem}usage")
        if dead is not None and usage is not None:
            yield named["name"] or "", perplexity, dead, usage


def _few_for_all(perplexity: float, size: float, usage: float) -> str:
    """Check codes of positions, of which there are many thousands: a perplexity below 20 (below an
    eighth of a codebook smaller than 160), or 80 % unused codes, is a collapse."""
    if usage < 0.2:
        return f"{1 - usage:.0%} of its codes are unused (at most 80%)"
    limit = min(20.0, size / 8)
    return f"perplexity {perplexity:.1f} (at least {limit:g})" if perplexity < limit else ""


def _one_for_all(perplexity: float, size: float, categories: int) -> str:
    """Check prototypes of images. A single category may need only one, and most may be unused. A
    codebook of at least 4 prototypes is dead if several categories share one."""
    if categories < 2 or size < 4 or perplexity >= 1.5:
        return ""
    return f"one prototype stands for {categories} categories (perplexity {perplexity:.1f})"
