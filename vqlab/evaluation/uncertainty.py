"""How sure the figures of a report are: its intervals, and a sentence where there can be none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqlab.metrics import (
    ANOMALOUS_IMAGES,
    CONSTANT,
    HEADLINES,
    NORMAL_IMAGES,
    RATES,
    TOO_FEW,
    Interval,
    distributions,
    enough,
    intervals,
    least_auroc,
    rate_counts,
    rate_interval,
    resample,
)

if TYPE_CHECKING:
    from vqlab.evaluation.report import Report

Array = NDArray[Any]
MEAN = "mean"


def with_intervals(report: Report, resamples: int, seed: int) -> Report:
    """Return the report with `intervals` computed from its evidence, and notes on missing ones.

    Rates have exact intervals. Other metrics have bootstrap intervals over images, unless there are
    too few images to resample or all resamples agree.
    """
    found: dict[str, dict[str, Array]] = {}
    given: dict[str, dict[str, Interval]] = {}
    for place, (category, evidence) in enumerate(report.evidence.items()):
        metrics = report.per_category[category]
        sampled = distributions(evidence, resample(evidence.labels, resamples, seed + place))
        found[category] = {name: values for name, values in sampled.items() if name not in RATES}
        usable = {n: values for n, values in found[category].items() if enough(evidence, n)}
        given[category] = intervals(metrics, usable) | _of_rates(report, [category])
    usable = {name: values for name, values in _means(found).items() if _enough(report, name)}
    given[MEAN] = intervals(report.mean, usable) | _of_rates(report, list(found))
    if len(found) == 1:
        given[MEAN] = given[next(iter(found))]
    sampled_names = {name for values in found.values() for name in values}
    missing = _missing(report, given[MEAN], [n for n in HEADLINES if n in sampled_names])
    return replace(report, intervals=given, notes=(*report.notes, *missing))


def _means(found: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    names = {name for each in found.values() for name in each}
    return {
        name: np.mean([each[name] for each in found.values() if name in each], axis=0)
        for name in names
    }


def _enough(report: Report, name: str) -> bool:
    """Whether every category that has a metric has enough images to resample it."""
    having = [e for c, e in report.evidence.items() if name in report.per_category[c]]
    return all(enough(evidence, name) for evidence in having)


def _of_rates(report: Report, categories: Sequence[str]) -> dict[str, Interval]:
    counts = [rate_counts(report.per_category[c] | report.images[c]) for c in categories]
    return {
        name: rate_interval([each[name] for each in counts if name in each])
        for name in RATES
        if any(name in each for each in counts)
    }


def _missing(report: Report, given: Mapping[str, Interval], names: Sequence[str]) -> Iterator[str]:
    """A sentence for each reason why metrics of the mean row have no interval."""
    missing = [name for name in names if name not in given]
    categories = list(report.evidence)
    who = categories[0] if len(categories) == 1 else "The mean over categories"
    reasons: dict[str, list[str]] = {}
    for name in missing:
        reason = CONSTANT if _enough(report, name) else TOO_FEW
        reasons.setdefault(reason, []).append(HEADLINES[name])
    for reason, words in reasons.items():
        sentence = f"{who} has no 95 % interval of {', '.join(words)}: {reason}"
        sentence += _got(report, categories) if reason == TOO_FEW else ""
        yield sentence + "."
    if len(categories) == 1 and report.mean.get("image_auroc") == 1.0:
        counts = report.images[categories[0]]
        normals, anomalous = counts[NORMAL_IMAGES], counts[ANOMALOUS_IMAGES]
        yield (
            f"{who}: perfect separation of {normals} normal and {anomalous} anomalous images "
            f"does not exclude a true image AUROC of {least_auroc(normals, anomalous):.2f}."
        )


def _got(report: Report, categories: Sequence[str]) -> str:
    if len(categories) > 1:
        return " of each category"
    counts = report.images[categories[0]]
    unmasked = counts[ANOMALOUS_IMAGES] - int(
        np.count_nonzero(report.evidence[categories[0]].positives.any(axis=1))
    )
    without = f" ({unmasked} without a mask)" if unmasked else ""
    return f"; got {counts[NORMAL_IMAGES]} and {counts[ANOMALOUS_IMAGES]}{without}"
