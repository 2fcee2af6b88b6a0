"""What one labelling of things tells of another: are the codes the categories?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.groups import Array


def contingency(first: ArrayLike, second: ArrayLike) -> Array:
    """How often each value of `first` meets each of `second`, both (N,), of anything sortable:
    int64 (values of first, values of second), sorted. Raises ValueError for other shapes."""
    one, other = np.asarray(first), np.asarray(second)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"first and second must be (N,) both; got {one.shape} and {other.shape}.")
    rows, row = np.unique(one, return_inverse=True)
    columns, column = np.unique(other, return_inverse=True)
    counts = np.bincount(row * len(columns) + column, minlength=len(rows) * len(columns))
    return counts.reshape(len(rows), len(columns))


def entropy(labels: ArrayLike) -> float:
    """Of the labels' frequencies (N,), nats; 0 of none."""
    return _entropy(contingency(labels, labels).diagonal())


def mutual_information(first: ArrayLike, second: ArrayLike) -> float:
    """What either labelling (N,) tells of the other, nats: Σ p(a, b) log p(a, b) / p(a) p(b).

    From 0 up to the smaller entropy. It is measured on these N things: with hardly more things
    than values it comes out too high.
    """
    table = contingency(first, second)
    apart = _entropy(table.sum(1)) + _entropy(table.sum(0))
    return max(0.0, apart - _entropy(table.ravel()))


def purity(groups: ArrayLike, labels: ArrayLike) -> float:
    """Share of the things (N,) that have the label most common in their group, in [0, 1]."""
    table = contingency(groups, labels)
    if not table.size:
        raise ValueError("purity needs something to group; got no things.")
    return float(table.max(1).sum() / table.sum())


def _entropy(counts: Array) -> float:
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum())
