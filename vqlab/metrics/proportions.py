"""Exact intervals of proportions of images, such as the share of defects that escape.

All are Clopper and Pearson's (1934): resampling 0 escapes of 6 defects never gives an escape, and
an interval of zero width; the exact one is 0.00–0.46.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from vqlab.metrics.interval import LEVEL, Difference, Interval

NORMAL_IMAGES, ANOMALOUS_IMAGES = "normal_images", "anomalous_images"
"""Keys of how many images of each label a report's rates come from."""
RATES = ("false_reject_rate", "escape_rate", "image_recall", "image_precision")
"""Metrics that are a proportion of images."""


class Count(NamedTuple):
    """`hits` of `total` images."""

    hits: int
    total: int

    def __str__(self) -> str:
        return f"{self.hits} of {self.total}"


def rate_counts(metrics: Mapping[str, float]) -> dict[str, Count]:
    """Return the counts behind the rates among `metrics`; empty without the numbers of images."""
    counts: dict[str, Count] = {}
    normals, anomalous = (int(metrics.get(k, 0)) for k in (NORMAL_IMAGES, ANOMALOUS_IMAGES))
    if normals and "false_reject_rate" in metrics:
        rate = metrics["false_reject_rate"]
        counts["false_reject_rate"] = Count(round(rate * normals), normals)
    if anomalous and "escape_rate" in metrics:
        escapes = Count(round(metrics["escape_rate"] * anomalous), anomalous)
        found = anomalous - escapes.hits
        counts |= {"escape_rate": escapes, "image_recall": Count(found, anomalous)}
        wrong = counts["false_reject_rate"].hits if "false_reject_rate" in counts else 0
        if found + wrong:
            counts["image_precision"] = Count(found, found + wrong)
    return counts


def rate_interval(counts: Sequence[Count]) -> Interval:
    """Return the interval of a proportion, or of the mean proportion of several categories.

    Of a mean: Clopper and Pearson's with the effective number of images, that of one set whose
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

    before, after (n,): whether each image counts. Only the images on which the two differ say
    anything; the interval is Clopper and Pearson's of those, scaled to all n.
    """
    from scipy.stats import binomtest

    more, less = int((after & ~before).sum()), int((before & ~after).sum())
    differing, total = more + less, len(before)
    if not differing:
        return Difference(0.0, None, 1.0, "same verdict on every image")
    low, high = _clopper_pearson(more, differing)
    scale = differing / total
    interval = Interval((2 * low - 1) * scale, (2 * high - 1) * scale)
    p = float(binomtest(more, differing).pvalue)
    return Difference((more - less) / total, interval, p)


def _clopper_pearson(hits: float, total: float) -> Interval:
    tail = (1 - LEVEL) / 2
    misses = total - hits
    low = 0.0 if hits <= 0 else float(betaincinv(hits, misses + 1, tail))
    high = 1.0 if misses <= 0 else float(betaincinv(hits + 1, misses, 1 - tail))
    return Interval(low, high)
