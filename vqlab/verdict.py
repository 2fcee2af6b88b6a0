"""Verdict, conformal p-value and calibrated value of an image score; standard library only.

`vqlab.evaluation` and `vqlab.runtime` use this module, and a bundle of an exported model contains a
copy. It imports nothing of vqlab.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

Verdict = Literal["pass", "review", "reject"]
PASS: Verdict = "pass"
REVIEW: Verdict = "review"
REJECT: Verdict = "reject"


def verdict_of(
    score: float, image_threshold: float, review_threshold: float | None = None
) -> Verdict:
    """Return `reject` if the score exceeds the image threshold, else `review` if it exceeds the
    review threshold (None: no image is in review), else `pass`."""
    if score > image_threshold:
        return REJECT
    return REVIEW if review_threshold is not None and score > review_threshold else PASS


def p_value(score: float, normal_scores: Sequence[float], count: int | None = None) -> float:
    """Return the conformal p-value of an image score: (1 + #{normal scores ≥ score}) / (count + 1).

    For an unseen normal image, exchangeable with these, P(p-value ≤ α) ≤ α for every α (Vovk,
    Gammerman, Shafer 2005, Algorithmic Learning in a Random World). NaN for NaN.
    normal_scores: scores of `count` held-out normal images, lowest first, or at least two evenly
    spaced quantiles of them; the p-value is then an upper bound. count: None: their number.
    """
    if math.isnan(score):
        return math.nan
    stored = len(normal_scores)
    count, lower = count or stored, bisect_left(normal_scores, score)
    if lower and stored < count:  # quantile j: between two scores, from rank ⌊…⌋
        lower = (lower - 1) * (count - 1) // (stored - 1) + 1
    return (1 + count - lower) / (count + 1)


def calibrated(score: float, threshold: float, unit: float | Fraction) -> float:
    """Map an image score to [0, 1] for display: 0.5 at the threshold, 0.25 and 0.75 at a distance
    of `unit`, which must be positive.

    Monotonic and symmetric about the threshold. Tails decay as 1 / distance, so that scores far
    from the threshold remain distinct. Not a probability: the frequency of defects is unknown.

    Computed in exact fractions and rounded once: with floats, differences may overflow and units
    may be subnormal.
    """
    if not (math.isfinite(score) and math.isfinite(threshold)):
        return math.nan if math.isnan(score - threshold) else float(score > threshold)
    distance, unit = Fraction(float(score)) - Fraction(float(threshold)), Fraction(unit)
    share = float(unit / (unit + abs(distance)) / 2)
    return share if distance < 0 else 1 - share


@dataclass(frozen=True)
class ExportedThresholds:
    """Thresholds of an exported model that decide on image scores."""

    image: float
    review: float | None
    unit: float
    """See `calibrated`."""
    normal_scores: tuple[float, ...]
    """Scores of the held-out normal images, lowest first; empty if they are not stored."""

    @classmethod
    def parse(cls, described: Mapping[str, Any]) -> ExportedThresholds:
        """Parse the section `thresholds` of a model's description."""
        scores = described.get("normal_scores") or ()
        return cls(described["image"], described.get("review"), described["unit"], tuple(scores))

    def verdict(self, score: float) -> Verdict:
        """Return `pass`, `review` or `reject` for an image score."""
        return verdict_of(score, self.image, self.review)

    def p_value(self, score: float) -> float | None:
        """Return the conformal p-value of an image score, see `p_value`; None without scores of
        normal images."""
        return p_value(score, self.normal_scores) if self.normal_scores else None

    def calibrated(self, score: float) -> float:
        """Map an image score to [0, 1] for display, 0.5 at the image threshold."""
        return calibrated(score, self.image, self.unit)
