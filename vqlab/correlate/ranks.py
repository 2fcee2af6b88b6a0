"""Rank correlations between what validation and what test say of the same settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vqlab.correlate.rows import Row
from vqlab.correlate.study import FEWEST

METRICS = ("pixel_auroc", "pixel_ap", "aupro", "image_auroc")
"""Those of validation that are correlated with those of test, each with each."""
OBJECTIVE = "pixel_auroc"
Pairs = dict[tuple[str, str], float]
"""Rank correlation by (validation metric, test metric); one that is undefined is absent."""


@dataclass(frozen=True)
class Correlation:
    """What a detector's settings came to on one category."""

    category: str
    detector: str
    settings: int
    free: Pairs
    """Over all settings."""
    held: Pairs
    """Mean over the groups in which the score's form is the same; empty where nothing is held."""
    kinds: dict[str, float]
    """By drawn kind: its validation pixel AUROC with test pixel AUROC, over all settings."""
    link: str


def correlated(
    category: str, detector: str, rows: Sequence[Row], hold: Sequence[str]
) -> Correlation:
    kinds = {}
    columns = {name for row in rows for name in row if name.startswith("validation_")}
    for split in sorted({name.partition("/")[0] for name in columns}):
        rho = correlations(rows, split).get((OBJECTIVE, OBJECTIVE))
        if rho is not None:
            kinds[split.removeprefix("validation_")] = rho
    within = mean([correlations(group) for group in held(rows, hold)])
    return Correlation(category, detector, len(rows), correlations(rows), within, kinds, "")


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation; None for fewer than `FEWEST` pairs, or where one of the two is constant."""
    if len(one) < FEWEST or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def correlations(rows: Sequence[Row], split: str = "validation") -> Pairs:
    """Of every metric of `split` with every one on test."""
    pairs: Pairs = {}
    for chosen, judged in itertools.product(METRICS, METRICS):
        columns = (f"{split}/{chosen}", f"test/{judged}")
        values = [
            [float(row[c]) for c in columns] for row in rows if all(c in row for c in columns)
        ]
        rho = spearman(*zip(*values, strict=True)) if values else None
        if rho is not None:
            pairs[chosen, judged] = rho
    return pairs


def held(rows: Sequence[Row], hold: Sequence[str]) -> list[list[Row]]:
    """The rows in groups within which the settings `hold` are the same; none for no settings."""
    groups: dict[str, list[Row]] = {}
    for row in rows if hold else ():
        values = json.loads(str(row["settings"]))
        groups.setdefault(json.dumps([values.get(name) for name in hold]), []).append(row)
    return list(groups.values())


def mean(pairs: Sequence[Mapping[Any, float]]) -> dict[Any, float]:
    """The mean of what is defined, key by key."""
    keys = dict.fromkeys(key for each in pairs for key in each)
    return {key: float(np.mean([each[key] for each in pairs if key in each])) for key in keys}
