"""Agreement of the kinds of synthetic anomalies in ranking the trials of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vqlab.evaluation import CategoryEvidence
from vqlab.metrics import distributions

MIN_TRIALS = 4
"""Minimum number of trials to rank."""
WITHIN, ACROSS = 0.5, 0.8
"""Agreement below which ranks say little about real defects, for the trials of one recipe and of
several recipes (docs/validation.md)."""


def agreement(trials: Sequence[Mapping[str, CategoryEvidence]], name: str) -> float | None:
    """Return the mean rank correlation over pairs of kinds and over categories. Each kind ranks the
    trials by a metric on its anomalies and all normal images.

    trials: evidence of each by category, on the same images. None for fewer than `MIN_TRIALS`
    trials or two kinds, and where the metric is undefined.
    """
    if len(trials) < MIN_TRIALS:
        return None
    values = []
    for category in trials[0]:
        kinds = trials[0][category].evidence.kinds
        if kinds is None or len(np.unique(kinds[kinds >= 0])) < 2:
            continue
        weights = np.stack([(kinds < 0) | (kinds == k) for k in np.unique(kinds[kinds >= 0])])
        measured = [
            distributions(trial[category].evidence, weights.astype(np.float32), [name]).get(name)
            for trial in trials
        ]
        columns = [each for each in measured if each is not None]
        if len(columns) == len(trials):
            values.append(_mean_rank_correlation(np.stack(columns)))
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _mean_rank_correlation(values: np.ndarray) -> float:
    """Return the mean Spearman correlation over pairs of columns of (trials, kinds), without
    constant ones; NaN if fewer than two are left."""
    from scipy.stats import rankdata

    varied = values[:, np.ptp(values, axis=0) > 0]
    if varied.shape[1] < 2:
        return float("nan")
    matrix = np.corrcoef(rankdata(varied, axis=0), rowvar=False)
    return float(matrix[np.triu_indices(len(matrix), 1)].mean())
