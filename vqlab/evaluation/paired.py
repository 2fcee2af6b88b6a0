"""Compare two detectors on the same images by the paired bootstrap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqlab.evaluation.evidence import CategoryEvidence
from vqlab.evaluation.uncertainty import MEAN
from vqlab.metrics import (
    ANOMALOUS_IMAGES,
    METRICS,
    NORMAL_IMAGES,
    RATES,
    Difference,
    Evidence,
    ThresholdCounts,
    distributions,
    enough_images,
    paired_difference,
    paired_rates,
    resample,
)


class Paired(NamedTuple):
    """The metrics of two detectors on the same images, by category and metric."""

    values: dict[str, dict[str, tuple[float, float]]]
    """Values of the first and the second detector."""
    differences: dict[str, dict[str, Difference]]
    """Second minus first, with its 95 % interval and p-value."""
    images: dict[str, dict[str, int]]
    """Numbers of `normal_images` and `anomalous_images` by category."""


def paired_differences(
    before: Mapping[str, CategoryEvidence],
    after: Mapping[str, CategoryEvidence],
    resamples: int = 1000,
    seed: int = 0,
    names: Collection[str] = METRICS,
    *,
    by_kind: bool = False,
) -> Paired:
    """Compare two detectors on the same resamples of the same images.

    Image difficulty that both detectors share cancels out (Efron and Tibshirani 1993, An
    Introduction to the Bootstrap). `before` and `after` hold the same images, by category. Rates of
    one category are compared exactly (`paired_rates`); their mean over categories is resampled.
    With several categories, MEAN is the key of the mean over them. names: metrics to compare.
    by_kind: resample the kinds of synthetic anomalies too, see `resample`.
    """
    values: dict[str, dict[str, tuple[float, float]]] = {}
    shifts: dict[str, dict[str, NDArray[Any]]] = {}
    for place, category in enumerate(before):
        a, b = before[category], after[category]
        kinds = a.evidence.kinds if by_kind else None
        weights = resample(a.evidence.labels, resamples, seed + place, kinds)
        first, second = (distributions(each.evidence, weights, names) for each in (a, b))
        both = [n for n in first if n in second and n in a.metrics and n in b.metrics]
        values[category] = {name: (a.metrics[name], b.metrics[name]) for name in both}
        shifts[category] = {name: second[name] - first[name] for name in both}
    parts = {category: [(before[category], after[category])] for category in before}
    if len(values) > 1:
        shared = set.intersection(*(set(each) for each in values.values()))
        every = [name for name in next(iter(values.values())) if name in shared]
        shifts[MEAN] = {n: np.mean([shifts[c][n] for c in parts], axis=0) for n in every}
        means = {n: np.mean([values[c][n] for c in parts], axis=0).tolist() for n in every}
        values[MEAN] = {name: (pair[0], pair[1]) for name, pair in means.items()}
        parts[MEAN] = [part for pairs in parts.values() for part in pairs]
    differences = {
        category: {
            name: _difference(name, pair, shifts[category][name], parts[category])
            for name, pair in metrics.items()
        }
        for category, metrics in values.items()
    }
    return Paired(values, differences, {name: _images(each) for name, each in before.items()})


def _difference(
    name: str,
    pair: tuple[float, float],
    shifts: NDArray[Any],
    parts: Sequence[tuple[CategoryEvidence, CategoryEvidence]],
) -> Difference:
    """Compare one metric. parts: the results of both detectors, for each category it covers."""
    if name in RATES and len(parts) == 1:
        (a, counted), (b, same) = (_by_image(name, each.evidence) for each in parts[0])
        if np.array_equal(counted, same):
            return paired_rates(a[counted], b[counted])
    sufficient = all(enough_images(measured.evidence, name) for measured, _ in parts)
    return paired_difference(shifts, pair[1] - pair[0], sufficient)


def _by_image(name: str, evidence: Evidence) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Numerator and denominator (N,) of a rate, image by image."""
    each_once = np.eye(len(evidence.labels), dtype=np.float32)
    at = ThresholdCounts.of_images(evidence.labels, evidence.flagged, each_once, evidence.reviewed)
    numerator, denominator = RATES[name].ratio(at)
    return numerator > 0, denominator > 0


def _images(measured: CategoryEvidence) -> dict[str, int]:
    anomalous = int(measured.evidence.labels.sum())
    return {NORMAL_IMAGES: len(measured.evidence.labels) - anomalous, ANOMALOUS_IMAGES: anomalous}
