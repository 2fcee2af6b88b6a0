"""Find dead codebooks by the metrics of `Detector.health`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

CONCEPT = "concept"
"""Name of the codebook of whole images; all others quantise positions."""
_PERPLEXITY = re.compile(r"codebook/(?:(?P<name>.+)_)?perplexity")


class Codebook(NamedTuple):
    """Usage of a codebook in the last epoch."""

    name: str
    """Empty for the only codebook of a detector."""
    perplexity: float
    dead_codes: float
    usage: float
    """Share of the codes that are used."""

    def fault(self, categories: int = 1) -> str:
        """Return why the codebook counts as dead; empty if it does not.

        categories: number of categories that the detector is trained on.
        """
        if self.usage == 1:  # every code is used
            return ""
        size = self.dead_codes / (1 - self.usage)
        if self.name == CONCEPT:
            return _concept_fault(self.perplexity, size, categories)
        return _position_fault(self.perplexity, size, self.dead_codes)


def codebooks(metrics: Mapping[str, float]) -> Iterator[Codebook]:
    """Yield the codebooks among the metrics of `Detector.health`.

    Each has `codebook/perplexity` or `codebook/<name>_perplexity`, `…dead_codes` and `…usage`.
    """
    for key, perplexity in metrics.items():
        named = _PERPLEXITY.fullmatch(key)
        if named is None:
            continue
        stem = key.removesuffix("perplexity")
        dead, usage = metrics.get(f"{stem}dead_codes"), metrics.get(f"{stem}usage")
        if dead is not None and usage is not None:
            yield Codebook(named["name"] or "", perplexity, dead, usage)


def dead_codebook(metrics: Mapping[str, float], categories: int = 1) -> str:
    """Return why the first dead codebook counts as dead; empty if none does. See `codebooks`."""
    for codebook in codebooks(metrics):
        fault = codebook.fault(categories)
        if fault:
            return f"dead codebook {codebook.name}: {fault}".replace(" :", ":")
    return ""


def _position_fault(perplexity: float, size: float, dead_codes: float) -> str:
    """Check codes of positions, of which there are many thousands: a perplexity below 20 (below an
    eighth of a codebook smaller than 160), or 80 % unused codes, is a collapse."""
    if dead_codes > 0.8 * size:
        return f"{dead_codes:.0f} of its {size:.0f} codes are unused (at most 80%)"
    limit = min(20.0, size / 8)
    return f"perplexity {perplexity:.1f} (at least {limit:g})" if perplexity < limit else ""


def _concept_fault(perplexity: float, size: float, categories: int) -> str:
    """Check prototypes of images. A single category may need only one, and most may be unused. A
    codebook of at least 4 prototypes is dead if several categories share one."""
    if categories < 2 or size < 4 or perplexity >= 1.5:
        return ""
    return f"one prototype represents {categories} categories (perplexity {perplexity:.1f})"
