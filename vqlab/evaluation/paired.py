"""Compare two detectors on the same images by the paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqlab.evaluation.evidence import Measured
from vqlab.evaluation.uncertainty import MEAN
from vqlab.metrics import (
    ANOMALOUS_IMAGES,
    NORMAL_IMAGES,
    Difference,
    Evidence,
    distributions,
    enough,
    paired_difference,
    paired_rates,
    resample,
)

_WRONG: dict[str, Callable[[Evidence], NDArray[Any]]] = {
    "false_reject_rate": lambda evidence: evidence.flagged[evidence.labels == 0],
    "escape_rate": lambda evidence: ~evidence.flagged[evidence.labels == 1],
}
"""Of a rate, which images count."""


class Paired(NamedTuple):
    """The metrics of two detectors on the same images, by category and metric."""

    values: dict[str, dict[str, tuple[float, float]]]
    """The first detector's value and the second's."""
    differences: dict[str, dict[str, Difference]]
    """Second minus first, with its 95 % interval and p-value."""
    images: dict[str, dict[str, int]]
    """How many `normal_images` and `anomalous_images` a category has."""


def paired_differences(
    before: Mapping[str, Measured],
    after: Mapping[str, Measured],
    resamples: int = 1000,
    seed: int = 0,
) -> Paired:
    """Compare two detectors on the same resamples of the same images.

    What makes an image hard for both detectors cancels out (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap). `before` and `after` hold the same images, by category. Rates of
    one category are compared exactly (`paired_rates`); their mean over categories is resampled.
    MEAN is the key of the mean over categories, present where there are several.
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
    parts = [(before[category], after[category]) for category in before]
    of_category = {category: [part] for category, part in zip(before, parts, strict=True)}
    differences = {
        category: {
            name: _difference(name, pair, moved[category][name], of_category.get(category, parts))
            for name, pair in metrics.items()
        }
        for category, metrics in values.items()
    }
    return Paired(values, differences, {name: _images(each) for name, each in before.items()})


def _difference(
    name: str,
    pair: tuple[float, float],
    moved: NDArray[Any],
    parts: Sequence[tuple[Measured, Measured]],
) -> Difference:
    """Compare one metric; parts: both detectors' figures of each category that it comes from."""
    if name in _WRONG and len(parts) == 1:
        first, second = (_WRONG[name](measured.evidence) for measured in parts[0])
        return paired_rates(first, second)
    sufficient = all(enough(measured.evidence, name) for measured, _ in parts)
    return paired_difference(moved, pair[1] - pair[0], sufficient)


def _images(measured: Measured) -> dict[str, int]:
    anomalous = int(measured.evidence.labels.sum())
    return {NORMAL_IMAGES: len(measured.evidence.labels) - anomalous, ANOMALOUS_IMAGES: anomalous}
