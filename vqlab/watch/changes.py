"""Describe which properties of the parts changed when drift was detected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vqlab.evaluation import Thresholds
from vqlab.watch.store import Part

SIGNIFICANT = 0.01
"""Level, after Bonferroni correction, at which a property counts as changed."""
MIN_IMAGES = 2
"""Minimum number of images to compare."""


@dataclass
class Properties:
    """Properties of several images; lists are empty if a property is unknown."""

    score: list[float] = field(default_factory=list)
    brightness: list[float] = field(default_factory=list)
    sharpness: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    concept: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Properties:
        """Return the properties of the readable parts."""
        properties = cls()
        for part in parts:
            for name in ("score", "brightness", "sharpness", "noise", "concept"):
                value = getattr(part, name)
                if part.score is not None and value is not None:
                    getattr(properties, name).append(value)
        return properties


@dataclass(frozen=True)
class Change:
    """A property before and after a change. The fields are keys of the alarm event."""

    what: str
    before: str
    after: str
    p_value: float
    """Of a two-sided test (Mann-Whitney; Fisher for shares), with Bonferroni correction.
    Descriptive only: the guarantee is that of the alarm."""

    @property
    def text(self) -> str:
        """The change as a sentence without a full stop."""
        return f"{self.what} {self.before} → {self.after}"


def significant_changes(
    before: Properties, after: Properties, thresholds: Thresholds, streams: Sequence[str] = ()
) -> list[Change]:
    """Return the properties that differ significantly, the most significant first.

    streams: those that raised the alarm; their medians come first, and are included in any case.
    """
    candidates = [
        *_numbers("median score", before.score, after.score),
        *_numbers("median brightness", before.brightness, after.brightness),
        *_numbers("median sharpness", before.sharpness, after.sharpness),
        *_numbers("median noise", before.noise, after.noise),
        *_upper_quantile(before.score, after.score),
        *_rejects(before.score, after.score, thresholds),
        *_concepts(before.concept, after.concept),
    ]
    corrected = [
        Change(each.what, each.before, each.after, min(1.0, each.p_value * len(candidates)))
        for each in candidates
    ]
    included = {f"median {name}" for name in streams}
    changes = [each for each in corrected if each.p_value < SIGNIFICANT or each.what in included]
    return sorted(changes, key=lambda change: (change.what not in included, change.p_value))


def _numbers(name: str, before: Sequence[float], after: Sequence[float]) -> list[Change]:
    """Compare the medians of two lists of numbers; empty if one is too short."""
    from scipy.stats import mannwhitneyu

    if min(len(before), len(after)) < MIN_IMAGES:
        return []
    p_value = float(mannwhitneyu(before, after).pvalue)
    old, new = float(np.median(before)), float(np.median(after))
    change = f" ({(new - old) / abs(old):+.0%})" if old else ""
    return [Change(name, f"{old:.4g}", f"{new:.4g}{change}", p_value)]


def _upper_quantile(before: Sequence[float], after: Sequence[float]) -> list[Change]:
    """Compare the share of scores above the 95 % quantile of `before`."""
    if min(len(before), len(after)) < MIN_IMAGES:
        return []
    quantile = float(np.quantile(before, 0.95))
    hits = [sum(score > quantile for score in scores) for scores in (before, after)]
    name = f"share of scores above {quantile:.4g} (95 % quantile)"
    return [_shares(name, hits, [len(before), len(after)])]


def _rejects(
    before: Sequence[float], after: Sequence[float], thresholds: Thresholds
) -> list[Change]:
    """Compare the shares of rejected images."""
    if min(len(before), len(after)) < MIN_IMAGES:
        return []
    hits = [sum(score > thresholds.image for score in scores) for scores in (before, after)]
    return [_shares("share rejected", hits, [len(before), len(after)])]


def _concepts(before: Sequence[float], after: Sequence[float]) -> list[Change]:
    """Compare the share of each concept."""
    if min(len(before), len(after)) < MIN_IMAGES:
        return []
    counts, totals = (Counter(before), Counter(after)), [len(before), len(after)]
    return [
        _shares(f"share of concept {concept}", [count[concept] for count in counts], totals)
        for concept in sorted(set(before) | set(after))
    ]


def _shares(name: str, hits: Sequence[int], totals: Sequence[int]) -> Change:
    from scipy.stats import fisher_exact

    table = [[hit, total - hit] for hit, total in zip(hits, totals, strict=True)]
    before, after = (f"{hit / total:.1%}" for hit, total in zip(hits, totals, strict=True))
    return Change(name, before, after, float(fisher_exact(table).pvalue))
