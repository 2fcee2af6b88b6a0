"""Agreement between two labellings, such as prototypes and categories."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.groups import Array


def contingency(first: ArrayLike, second: ArrayLike) -> Array:
    """Return the contingency table of two labellings (N,) of sortable values: int64 (values of
    first, values of second), sorted. Raises ValueError for other shapes."""
    a, b = np.asarray(first), np.asarray(second)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"first and second must both have shape (N,); got {a.shape} and {b.shape}."
        )
    rows, row = np.unique(a, return_inverse=True)
    columns, column = np.unique(b, return_inverse=True)
    counts = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    return counts.reshape(len(rows), len(columns))


def entropy(labels: ArrayLike) -> float:
    """Return the entropy of labels (N,) in nats; 0 without labels."""
    return _entropy(contingency(labels, labels).diagonal())


def mutual_information(first: ArrayLike, second: ArrayLike) -> float:
    """Return the mutual information of two labellings (N,) in nats, in [0, smaller entropy].

    Σ p(a, b) log p(a, b) / p(a) p(b) of the empirical frequencies: biased upwards for small N.
    """
    table = contingency(first, second)
    marginal = _entropy(table.sum(1)) + _entropy(table.sum(0))
    return max(0.0, marginal - _entropy(table.ravel()))


def purity(groups: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of elements (N,) with the most common label of their group, in [0, 1]."""
    table = contingency(groups, labels)
    if not table.size:
        raise ValueError("purity needs at least one element; got none.")
    return float(table.max(1).sum() / table.sum())


def _entropy(counts: Array) -> float:
    from scipy.special import entr  # slow to import

    return float(entr(counts / max(counts.sum(), 1)).sum())
