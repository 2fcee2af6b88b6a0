"""Constraints of a trial: costs that are measured, and dead codebooks."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping

from vqlab.data import Splits
from vqlab.evaluation import Report
from vqlab.model import Model
from vqlab.types import UserError

_COSTED_ON = 8
"""Images on which a cost in seconds is measured."""
CONCEPT = "concept"
"""The codebook of whole images; all others are of places."""
_PERPLEXITY = re.compile(r"codebook/(?:(?P<name>.+)_)?perplexity")


def costs(model: Model, splits: Splits, asked: set[str]) -> dict[str, float]:
    """What the model costs, as far as it is asked for. CPU-seconds: of all threads, from the file
    to the score."""
    found: dict[str, float] = {}
    if "cost/parameters" in asked:
        every = [*model.detector.parameters(), *model.backbone.parameters()]
        found["cost/parameters"] = float(sum(weights.numel() for weights in every))
    if "cost/cpu_seconds_per_image" in asked:
        few = splits.train.records[:_COSTED_ON]
        started = time.process_time()
        for record in few:
            model.score(record.path)
        found["cost/cpu_seconds_per_image"] = (time.process_time() - started) / len(few)
    return found


def number(metrics: Mapping[str, float], name: str, report: Report) -> float:
    """A metric of a trial. Raises UserError where there is none, or no number."""
    value = metrics.get(name)
    if value is None:
        known = ", ".join(sorted(metrics)) or "none"
        raise UserError(
            f"the objective {name} is not among the trial's metrics ({known}); "
            f"{' '.join(report.notes)}"
        )
    if not math.isfinite(value):
        raise UserError(f"the objective {name} must be finite; got {value}.")
    return value


def dead_codebook(metrics: Mapping[str, float], categories: int = 1) -> str:
    """Why a codebook counts as dead, by what `Detector.health` says of each; empty where all live.

    A codebook is one with `codebook/perplexity` or `codebook/<name>_perplexity` among the metrics,
    with `…dead_codes` and `…usage`; the first dead one is told of, by its name. categories: those
    that the model is trained on.
    """
    for name, perplexity, dead, usage in _books(metrics):
        if usage == 1:  # every code was chosen
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
    """Name (empty for the only one), perplexity, dead codes and usage of every codebook."""
    for key, perplexity in metrics.items():
        named = _PERPLEXITY.fullmatch(key)
        if named is None:
            continue
        stem = key.removesuffix("perplexity")
        dead, usage = metrics.get(f"{stem}dead_codes"), metrics.get(f"{stem}usage")
        if dead is not None and usage is not None:
            yield named["name"] or "", perplexity, dead, usage


def _few_for_all(perplexity: float, size: float, usage: float) -> str:
    """Codes of places, of which there are many thousands: perplexity below 20 (an eighth of a
    codebook smaller than 160), or four fifths unused, is a collapse."""
    if usage < 0.2:
        return f"{1 - usage:.0%} of its codes are unused (at most 80%)"
    limit = min(20.0, size / 8)
    return f"perplexity {perplexity:.1f} (at least {limit:g})" if perplexity < limit else ""


def _one_for_all(perplexity: float, size: float, categories: int) -> str:
    """Prototypes of images. There are few images, and few kinds of them: most prototypes may be
    unused, and one may be all that a single category's alike images need. Only where several
    categories share one has the codebook nothing to say; one of fewer than 4 is too small to ask
    it of."""
    if categories < 2 or size < 4 or perplexity >= 1.5:
        return ""
    return f"one prototype stands for {categories} categories (perplexity {perplexity:.1f})"
