"""Groups of equal scores, found by sorting: the exact mode, with every score in memory."""

from __future__ import annotations

import numpy as np

from vqlab.metrics.groups import Array, Groups


def group(positives: Array, negatives: Array, overlap: Array | None = None) -> tuple[Groups, Array]:
    """Groups of finite scores, (P,) and (N,), P > 0; and the lowest score of each with a positive.

    overlap (P,): each positive's share of its region's area; 1 where none is given. `negatives` is
    sorted in place; those between two scores of positives are one group, as no metric changes
    among them. So the work is a sort of the negatives plus one of the positives.
    """
    order = np.argsort(positives)[::-1]
    descending = positives[order]
    last = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(order) - 1)
    scores = descending[last]
    found = np.diff(last, prepend=-1)
    share = found.astype(np.float64)
    if overlap is not None:
        share = np.diff(np.cumsum(overlap[order], dtype=np.float64)[last], prepend=0.0)
    negatives.sort()
    below = len(negatives) - np.searchsorted(negatives, scores, side="right")
    level = len(negatives) - np.searchsorted(negatives, scores, side="left")
    none = np.zeros_like(found)
    between = np.diff(np.append(below, len(negatives)), prepend=0)
    between[1:] -= level - below
    groups = Groups(
        positives=_interleave(none, found, none[:1]),
        negatives=_interleave(between[:-1], level - below, between[-1:]),
        overlap=_interleave(none.astype(np.float64), share, np.zeros(1)),
        tied=np.ones(2 * len(scores) + 1, np.bool_),
    )
    return groups, _interleave(scores, scores, scores[-1:])


def _interleave(first: Array, second: Array, end: Array) -> Array:
    return np.concatenate([np.stack([first, second], axis=1).ravel(), end])
