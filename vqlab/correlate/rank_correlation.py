"""Rank correlations (Spearman) of settings between validation and test metrics."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqlab.correlate.grid import MIN_SETTINGS
from vqlab.correlate.table import Row

METRICS = ("pixel_auroc", "pixel_ap", "aupro", "image_auroc")
"""Each of these on validation is correlated with each on test."""
OBJECTIVE = "pixel_auroc"
Pairs = dict[tuple[str, str], float]
"""Rank correlation by (validation metric, test metric), without undefined ones."""


@dataclass(frozen=True)
class Correlation:
    """Rank correlations of a detector's settings on one category."""

    category: str
    detector: str
    settings: int
    """Number of settings."""
    overall: Pairs
    """Over all settings."""
    fixed: Pairs
    """Mean over groups of settings with equal values of `hold`; empty if `hold` is."""
    kinds: dict[str, float]
    """By kind of synthetic anomaly: its validation pixel AUROC with test pixel AUROC."""
    link: str
    reliability: float | None = None
    """Of the ranking on test, see `reliability.reliability`."""
    spread: float = 0.0
    """Largest minus smallest test pixel AUROC."""
    across: float | None = None
    """Over the settings of all detectors of the grid: validation with test pixel AUROC."""
    across_reliability: float | None = None
    """Of the ranking of these settings on test."""


def correlate_rows(
    category: str, detector: str, rows: Sequence[Row], hold: Sequence[str]
) -> Correlation:
    """Return the rank correlations over `rows`. hold: see `DetectorGrid.hold`."""
    kinds = {}
    columns = {name for row in rows for name in row if name.startswith("validation_")}
    for split in sorted({name.partition("/")[0] for name in columns}):
        rho = correlations(rows, split).get((OBJECTIVE, OBJECTIVE))
        if rho is not None:
            kinds[split.removeprefix("validation_")] = rho
    fixed = mean([correlations(group) for group in group_by(rows, hold)])
    return Correlation(category, detector, len(rows), correlations(rows), fixed, kinds, "")


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the rank correlation; None for fewer than `MIN_SETTINGS` pairs or constant values."""
    if len(first) < MIN_SETTINGS or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def correlations(rows: Sequence[Row], split: str = "validation") -> Pairs:
    """Return the rank correlation of every metric on `split` with every metric on test."""
    pairs: Pairs = {}
    for first, second in itertools.product(METRICS, METRICS):
        columns = (f"{split}/{first}", f"test/{second}")
        values = [
            [float(row[c]) for c in columns] for row in rows if all(c in row for c in columns)
        ]
        rho = spearman(*zip(*values, strict=True)) if values else None
        if rho is not None:
            pairs[first, second] = rho
    return pairs


def group_by(rows: Sequence[Row], settings: Sequence[str]) -> list[list[Row]]:
    """Group rows by the values of `settings`; return no group if `settings` is empty."""
    groups: dict[str, list[Row]] = {}
    for row in rows if settings else ():
        values = json.loads(str(row["settings"]))
        groups.setdefault(json.dumps([values.get(name) for name in settings]), []).append(row)
    return list(groups.values())


def mean(mappings: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    """Return the mean per key over the mappings that have it."""
    keys = dict.fromkeys(key for mapping in mappings for key in mapping)
    return {key: float(np.mean([m[key] for m in mappings if key in m])) for key in keys}
