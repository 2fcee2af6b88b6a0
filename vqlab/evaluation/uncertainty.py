"""Intervals of the metrics of a report, and notes on missing ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqlab.metrics import (
    ANOMALOUS_IMAGES,
    CONSTANT,
    NORMAL_IMAGES,
    RANKINGS,
    RATES,
    TOO_FEW,
    Interval,
    distributions,
    enough_images,
    headlines,
    intervals,
    least_auroc,
    metric_title,
    rate_counts,
    rate_interval,
    resample,
)

if TYPE_CHECKING:
    from vqlab.evaluation.report import Report

Array = NDArray[Any]
MEAN = "mean"
"""Key of the mean over categories."""


def with_intervals(report: Report, resamples: int, seed: int) -> Report:
    """Return the report with `intervals` computed from its evidence, and notes on missing ones.

    Rates have exact intervals. Ranking metrics have bootstrap intervals over images, unless there
    are too few images to resample or all resamples agree.
    """
    sampled: dict[str, dict[str, Array]] = {}
    results: dict[str, dict[str, Interval]] = {}
    for place, (category, evidence) in enumerate(report.evidence.items()):
        metrics = report.per_category[category]
        every = distributions(evidence, resample(evidence.labels, resamples, seed + place))
        sampled[category] = {name: values for name, values in every.items() if name in RANKINGS}
        usable = {
            n: values for n, values in sampled[category].items() if enough_images(evidence, n)
        }
        results[category] = intervals(metrics, usable) | _of_rates(report, [category])
    usable = {
        name: values for name, values in _means(sampled).items() if _enough_images(report, name)
    }
    results[MEAN] = intervals(report.mean, usable) | _of_rates(report, list(sampled))
    if len(sampled) == 1:
        results[MEAN] = results[next(iter(sampled))]
    names = {name for values in sampled.values() for name in values}
    missing = [name for name in headlines() if name in names and name not in results[MEAN]]
    return replace(report, intervals=results, notes=(*report.notes, *_notes(report, missing)))


def _means(sampled: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    names = {name for each in sampled.values() for name in each}
    return {
        name: np.mean([each[name] for each in sampled.values() if name in each], axis=0)
        for name in names
    }


def _enough_images(report: Report, name: str) -> bool:
    """Return whether every category with this metric has enough images to resample it."""
    parts = [e for c, e in report.evidence.items() if name in report.per_category[c]]
    return all(enough_images(evidence, name) for evidence in parts)


def _of_rates(report: Report, categories: Sequence[str]) -> dict[str, Interval]:
    counts = [rate_counts(report.per_category[c] | report.images[c]) for c in categories]
    return {
        name: rate_interval([each[name] for each in counts if name in each])
        for name in RATES
        if any(name in each for each in counts)
    }


def _notes(report: Report, missing: Sequence[str]) -> Iterator[str]:
    """Yield notes on metrics of the mean row without an interval, and on perfect separation."""
    categories = list(report.evidence)
    subject = categories[0] if len(categories) == 1 else "The mean over categories"
    reasons: dict[str, list[str]] = {}
    for name in missing:
        reason = CONSTANT if _enough_images(report, name) else TOO_FEW
        reasons.setdefault(reason, []).append(metric_title(name))
    for reason, titles in reasons.items():
        sentence = f"{subject} has no 95 % interval for {', '.join(titles)}: {reason}"
        sentence += _numbers(report, categories) if reason == TOO_FEW else ""
        yield sentence + "."
    if len(categories) == 1 and report.mean.get("image_auroc") == 1.0:
        counts = report.images[categories[0]]
        normals, anomalous = counts[NORMAL_IMAGES], counts[ANOMALOUS_IMAGES]
        yield (
            f"{subject}: perfect separation of {normals} normal and {anomalous} anomalous images "
            f"does not exclude a true image AUROC of {least_auroc(normals, anomalous):.2f}."
        )


def _numbers(report: Report, categories: Sequence[str]) -> str:
    if len(categories) > 1:
        return " of each category"
    counts, evidence = report.images[categories[0]], report.evidence[categories[0]]
    masked = int(np.count_nonzero(evidence.positives.any(axis=1)))
    unmasked = counts[ANOMALOUS_IMAGES] - masked
    without = f" ({unmasked} without a mask)" if unmasked else ""
    return f"; got {counts[NORMAL_IMAGES]} and {counts[ANOMALOUS_IMAGES]}{without}"
