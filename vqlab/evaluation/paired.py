"""Compare two detectors on the same images by the paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vqlab.evaluation.evidence import Measured
from vqlab.metrics import Difference, distributions, paired_difference, resample

MEAN = "mean"
"""Key of the mean over categories, present where there are several."""


class Paired(NamedTuple):
    """The metrics of two detectors on the same images, by category and metric."""

    values: dict[str, dict[str, tuple[float, float]]]
    """The first detector's value and the second's."""
    differences: dict[str, dict[str, Difference]]
    """Second minus first, with its 95 % interval and p-value."""


def paired_differences(
    before: Mapping[str, Measured],
    after: Mapping[str, Measured],
    resamples: int = 1000,
    seed: int = 0,
) -> Paired:
    """Compare two detectors on the same resamples of the same images.

    What makes an image hard for both detectors cancels out (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap). `before` and `after` hold the same images, by category.
    """
    values: dict[str, dict[str, tuple[float, float]]] = {}
    moved: dict[str, dict[str, np.ndarray]] = {}
    for place, category in enumerate(before):
        a, b = before[category], after[category]
        weights = resample(a.evidence.labels, resamples, seed + place)
        first, second = distributions(a.evidence, weights), distributions(b.evidence, weights)
        names = [n for n in first if n in second and n in a.metrics and n in b.metrics]
        values[category] = {name: (a.metrics[name], b.metrics[name]) for name in names}
        moved[category] = {name: second[name] - first[name] for name in names}
    if len(values) > 1:
        shared = set.intersection(*(set(each) for each in values.values()))
        names = [name for name in next(iter(values.values())) if name in shared]
        every = list(values)
        means = {n: np.mean([values[c][n] for c in every], axis=0).tolist() for n in names}
        moved[MEAN] = {n: np.mean([moved[c][n] for c in every], axis=0) for n in names}
        values[MEAN] = {name: (pair[0], pair[1]) for name, pair in means.items()}
    differences = {
        category: {
            name: paired_difference(moved[category][name], second - first)
            for name, (first, second) in metrics.items()
        }
        for category, metrics in values.items()
    }
    return Paired(values, differences)
