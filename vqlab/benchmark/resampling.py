"""Paired bootstrap of metrics that are means over seeds.

The models of all seeds and methods are measured on the same resamples of the test images, so that
shared image difficulty cancels out in differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.benchmark.results import Measured
from vqlab.evaluation import MEAN, CategoryEvidence
from vqlab.metrics import (
    Difference,
    Interval,
    distributions,
    enough_images,
    paired_difference,
    resample,
)

Array = NDArray[Any]
RESAMPLES = 1000


class Resampled:
    """Distributions of metrics, means over seeds, by method and category (and `MEAN`)."""

    def __init__(
        self,
        measured: Measured,
        methods: Sequence[str],
        categories: Sequence[str],
        metrics: Sequence[str],
        resamples: int = RESAMPLES,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._values: dict[tuple[str, str, str], float] = {}
        self._samples: dict[tuple[str, str, str], Array] = {}
        self._has_enough: dict[tuple[str, str], bool] = {}
        for place, category in enumerate(categories):
            first = next(iter(measured[methods[0]][category].values())).evidence
            weights = resample(first.labels, resamples, place)
            for metric in metrics:
                self._has_enough[category, metric] = enough_images(first, metric)
            for index, method in enumerate(methods, 1):
                seeds = list(measured[method][category].values())
                self._add(method, category, seeds, weights, metrics)
                on_progress(place * len(methods) + index, len(categories) * len(methods))
        for metric in metrics:
            self._has_enough[MEAN, metric] = all(self._has_enough[c, metric] for c in categories)
            for method in methods:
                keys = [(method, category, metric) for category in categories]
                mean = float(np.mean([self._values[key] for key in keys]))
                self._values[method, MEAN, metric] = mean
                if all(key in self._samples for key in keys):
                    samples = np.mean([self._samples[key] for key in keys], axis=0)
                    self._samples[method, MEAN, metric] = samples

    def _add(
        self,
        method: str,
        category: str,
        seeds: Sequence[CategoryEvidence],
        weights: Array,
        metrics: Sequence[str],
    ) -> None:
        parts = [distributions(each.evidence, weights, metrics) for each in seeds]
        for metric in metrics:
            key = method, category, metric
            self._values[key] = float(np.mean([each.metrics[metric] for each in seeds]))
            if all(metric in part for part in parts):
                self._samples[key] = np.mean([part[metric] for part in parts], axis=0)

    def value(self, method: str, category: str, metric: str) -> float:
        """Return the mean over seeds."""
        return self._values[method, category, metric]

    def interval(self, method: str, category: str, metric: str) -> Interval | None:
        """Return the 95 % interval over the test images; None where they do not determine one."""
        key = method, category, metric
        if key not in self._samples:
            return None
        shifts = self._samples[key] - self._samples[key][0]
        difference = paired_difference(
            shifts, self._values[key], self._has_enough[category, metric]
        )
        if difference.interval is None:
            return None
        low, high = difference.interval
        return Interval(max(0.0, low), min(1.0, high))

    def difference(self, pair: tuple[str, str], category: str, metric: str) -> Difference | None:
        """Return the second method minus the first, with its interval and p-value; None if the
        metric is undefined on a resample."""
        keys = [(method, category, metric) for method in pair]
        if any(key not in self._samples for key in keys):
            return None
        shifts = self._samples[keys[1]] - self._samples[keys[0]]
        value = self._values[keys[1]] - self._values[keys[0]]
        return paired_difference(shifts, value, self._has_enough[category, metric])
