"""Confidence intervals of rates, exact for few images: Clopper and Pearson (1934).

The bootstrap cannot see the uncertainty of 0 escapes among 6 defects; the exact interval is
0.00–0.46.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqlab.metrics.catalogue import RATES, ThresholdCounts

LEVEL = 0.95
"""Confidence level of every interval."""
NORMAL_IMAGES, ANOMALOUS_IMAGES = "normal_images", "anomalous_images"
"""Metric keys of the numbers of images on which a report's rates are based."""
_MAX_DIGITS = 6


class Interval(NamedTuple):
    """A confidence interval at `LEVEL`."""

    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return `0.00–0.46`, with more digits where both ends would look the same."""
        while digits < _MAX_DIGITS and f"{self.low:.{digits}f}" == f"{self.high:.{digits}f}":
            digits += 1
        return f"{self.low:.{digits}f}–{self.high:.{digits}f}"


class Difference(NamedTuple):
    """A metric of two detectors on the same images: second minus first."""

    value: float
    interval: Interval | None
    """None where the images do not determine one."""
    p: float | None
    """Two-sided p-value of no difference; None where the images do not determine one."""
    reason: str = ""
    """Why there is no interval; empty where there is one."""


class Count(NamedTuple):
    """`hits` of `total` images."""

    hits: int
    total: int

    def __str__(self) -> str:
        return f"{self.hits} of {self.total}"


def of_split(metrics: Mapping[str, float], split: str) -> dict[str, float]:
    """Return the metrics of one split by name, without those of its groups: `test/aupro` as
    `aupro`."""
    parts = ((key.rpartition("/"), value) for key, value in metrics.items())
    return {name: value for (group, _, name), value in parts if group == split}


def rate_counts(metrics: Mapping[str, float]) -> dict[str, Count]:
    """Return the counts behind the image rates among `metrics`, which must hold the numbers of
    images (`normal_images`, `anomalous_images`); empty without them."""
    normals, anomalous = (int(metrics.get(k, 0)) for k in (NORMAL_IMAGES, ANOMALOUS_IMAGES))
    normals = normals if "false_reject_rate" in metrics else 0
    anomalous = anomalous if "escape_rate" in metrics else 0
    rejects = round(metrics.get("false_reject_rate", 0.0) * normals)
    escapes = round(metrics.get("escape_rate", 0.0) * anomalous)
    at = ThresholdCounts(anomalous - escapes, rejects, escapes, normals - rejects)
    if "review_rate" in metrics or "anomalous_review_rate" in metrics:
        reviewed = round(metrics.get("anomalous_review_rate", 0.0) * anomalous)
        at.true_positives -= reviewed
        at.false_negatives += reviewed
        at.in_review = round(metrics.get("review_rate", 0.0) * normals), reviewed
    counts = {n: Count(*rate.ratio(at)) for n, rate in RATES.items() if rate.level == "image"}
    return {name: count for name, count in counts.items() if count.total}


def rate_interval(counts: Sequence[Count]) -> Interval:
    """Return the interval of a proportion, or of the mean proportion of several categories.

    The interval of a mean uses the effective number of images: that of a single set whose
    proportion has the same variance (Korn and Graubard 1998, Survey Methodology 24, 193).
    """
    shares = np.array([count.hits / count.total for count in counts])
    totals = np.array([count.total for count in counts])
    mean, effective = float(shares.mean()), len(counts) ** 2 / float((1 / totals).sum())
    variance = float((shares * (1 - shares) / totals).sum()) / len(counts) ** 2
    if variance > 0:
        effective = min(effective, mean * (1 - mean) / variance)
    return _clopper_pearson(mean * effective, effective)


def paired_rates(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Difference:
    """Compare the rates of two detectors on the same n images by McNemar's exact test.

    before, after (n,): whether each image counts. Only images on which the detectors disagree
    carry information; the interval is Clopper and Pearson's of those, scaled to all n.
    """
    from scipy.stats import binomtest

    more, less = int((after & ~before).sum()), int((before & ~after).sum())
    discordant, total = more + less, len(before)
    if not discordant:
        return Difference(0.0, None, 1.0, "same verdict on every image")
    low, high = _clopper_pearson(more, discordant)
    scale = discordant / total
    interval = Interval((2 * low - 1) * scale, (2 * high - 1) * scale)
    p = float(binomtest(more, discordant).pvalue)
    return Difference((more - less) / total, interval, p)


def _clopper_pearson(hits: float, total: float) -> Interval:
    from scipy.special import betaincinv  # slow to import

    tail = (1 - LEVEL) / 2
    misses = total - hits
    low = 0.0 if hits <= 0 else float(betaincinv(hits, misses + 1, tail))
    high = 1.0 if misses <= 0 else float(betaincinv(hits + 1, misses, 1 - tail))
    return Interval(low, high)
