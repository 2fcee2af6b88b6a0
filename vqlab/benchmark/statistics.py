"""Compare several methods over blocks: Friedman test, Nemenyi critical difference, Wilcoxon tests.

A block is a category (values are means over seeds) or, within a category, a seed. Demšar,
Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHA = 0.05
"""Significance level."""
_EXACT = 13
"""Largest number of differences whose 2**n signs are all enumerated."""


@dataclass(frozen=True)
class Ranks:
    """Ranks of k methods over n blocks; 1 is best, equal values share the mean of their ranks."""

    methods: tuple[str, ...]
    average: tuple[float, ...]
    """Average rank of each method."""
    blocks: int
    statistic: float | None
    """Chi-squared statistic of Friedman's test; None for fewer than three methods or two blocks, or
    if every block ranks all methods alike."""
    p: float | None
    """Its p-value for equal methods."""
    critical_difference: float | None
    """Nemenyi: average ranks that differ by less are not significantly different (level
    `ALPHA`)."""

    @property
    def order(self) -> list[int]:
        """Indices of the methods, best first."""
        return sorted(range(len(self.methods)), key=lambda index: self.average[index])

    def groups(self) -> list[tuple[int, ...]]:
        """Return the largest sets of methods that do not differ significantly from each other,
        best first; without those of one method."""
        if self.critical_difference is None:
            return []
        order, groups = self.order, []
        reached = 0
        for start, first in enumerate(order):
            limit = self.average[first] + self.critical_difference
            end = sum(self.average[index] < limit for index in order)
            if end > max(reached, start + 1):
                groups.append(tuple(order[start:end]))
                reached = end
        return groups


def rank_methods(methods: Sequence[str], values: ArrayLike, greater_is_better: bool) -> Ranks:
    """Rank methods over blocks. values: (blocks, methods)."""
    from scipy import stats

    table = np.asarray(values, np.float64)
    blocks, count = table.shape
    ranks = stats.rankdata(-table if greater_is_better else table, axis=1)
    average = tuple(float(rank) for rank in ranks.mean(axis=0))
    if count < 3 or blocks < 2 or np.all(ranks == ranks[:, :1]):
        return Ranks(tuple(methods), average, blocks, None, None, None)
    test = stats.friedmanchisquare(*table.T)
    difference = nemenyi(count, blocks)
    return Ranks(
        tuple(methods), average, blocks, float(test.statistic), float(test.pvalue), difference
    )


def nemenyi(methods: int, blocks: int) -> float:
    """Return the critical difference of average ranks: q · sqrt(k (k + 1) / (6 n))."""
    from scipy import stats

    quantile = float(stats.studentized_range.ppf(1 - ALPHA, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * blocks))


def wilcoxon(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p-value of the signed-rank test of paired values (n,).

    Equal pairs are excluded. Exact for up to 13 differences, also with ties.
    """
    from scipy import stats

    differences = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    if len(differences) <= _EXACT:
        return _exact_signed_rank(differences)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties: the normal approximation is used
        return float(stats.wilcoxon(differences).pvalue)


def _exact_signed_rank(differences: NDArray[np.float64]) -> float:
    """Return the p-value over all assignments of signs to the ranks."""
    from scipy import stats

    ranks = stats.rankdata(np.abs(differences))
    signs = np.array(list(itertools.product((0, 1), repeat=len(ranks))))
    sums, half = signs @ ranks, ranks.sum() / 2
    observed = abs(float(ranks[differences > 0].sum()) - half)
    return float(np.mean(np.abs(sums - half) >= observed - 1e-9))


def smallest_p(blocks: int) -> float:
    """Return the smallest two-sided p-value that `wilcoxon` can give for so many pairs."""
    return float(min(1.0, 2.0 ** (1 - blocks)))


def holm(p_values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Return p-values adjusted for their number (Holm 1979), which control the probability of any
    false rejection."""
    adjusted: dict[tuple[str, str], float] = {}
    highest = 0.0
    for place, (pair, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p))
        adjusted[pair] = highest
    return {pair: adjusted[pair] for pair in p_values}
