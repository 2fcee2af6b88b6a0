"""Ranks and significance tests of several methods, compared with published values and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vqlab.benchmark.statistics import Ranks, holm, nemenyi, rank_methods, smallest_p, wilcoxon

DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
"""Demšar 2006, table 6: AUC of C4.5, +m, +cf and +m+cf on 14 data sets. Its ranks tell two apart
that are both printed as 0.975."""


def test_ranks_of_demsar_2006() -> None:
    ranks = rank_methods(("c45", "m", "cf", "m cf"), DEMSAR, greater_is_better=True)
    assert np.round(ranks.average, 3).tolist() == [3.143, 2.0, 2.893, 1.964]
    assert ranks.critical_difference == pytest.approx(1.25, abs=0.005)
    # The 9.28 in the paper has no correction for ties; SciPy's value has.
    assert ranks.statistic == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).statistic)
    assert ranks.p is not None and 0.01 < ranks.p < 0.03
    assert ranks.groups() == [(3, 1, 2, 0)]


@pytest.mark.parametrize(("methods", "quantile"), [(2, 1.960), (4, 2.569), (10, 3.164)])
def test_nemenyi_critical_values(methods: int, quantile: float) -> None:
    """Demšar 2006, table 5."""
    scale = np.sqrt(methods * (methods + 1) / (6 * 20))
    assert nemenyi(methods, 20) / scale == pytest.approx(quantile, abs=6e-4)


def test_lower_is_better_reverses_ranks() -> None:
    values = [[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]]
    up = rank_methods("abc", values, greater_is_better=True)
    down = rank_methods("abc", values, greater_is_better=False)
    assert [4 - rank for rank in up.average] == list(down.average)
    assert down.order[0] == 0


def test_groups_are_maximal_and_may_overlap() -> None:
    ranks = Ranks(tuple("abcde"), (1.0, 1.8, 2.6, 4.9, 4.6), 30, 1.0, 0.01, 1.0)
    assert ranks.groups() == [(0, 1), (1, 2), (4, 3)]
    assert Ranks(("a", "b"), (1.0, 2.0), 3, None, None, None).groups() == []


@pytest.mark.parametrize(
    "values", [[[1.0, 2.0]] * 5, [[1.0, 2.0, 3.0]], [[1.0, 1.0, 1.0]] * 4], ids=str
)
def test_friedman_test_requires_enough_methods_and_blocks(values: list[list[float]]) -> None:
    ranks = rank_methods([str(i) for i in range(len(values[0]))], values, greater_is_better=True)
    assert (ranks.statistic, ranks.p, ranks.critical_difference) == (None, None, None)


@pytest.mark.parametrize("count", [3, 8, 12, 40])
def test_wilcoxon_equals_scipy(count: int) -> None:
    rng = np.random.default_rng(count)
    first, second = rng.normal(size=count), rng.normal(0.4, 1, size=count)
    assert wilcoxon(first, second) == pytest.approx(stats.wilcoxon(second - first).pvalue)


def test_wilcoxon_with_ties_and_zeros_is_exact() -> None:
    assert wilcoxon([0, 0, 0, 0], [1, 1, 1, 1]) == 2 / 16 == smallest_p(4)
    assert wilcoxon([0, 0, 0], [1, 1, 0]) == 0.5  # the equal pair is dropped
    assert wilcoxon([0, 0], [1, -1]) == 1.0
    assert wilcoxon([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert smallest_p(6) < 0.05 < smallest_p(5)


def test_holm() -> None:
    """Adjusted values are monotone, in the order of the input, and at most 1."""
    pairs = {("a", "b"): 0.01, ("a", "c"): 0.04, ("b", "c"): 0.03}
    assert holm(pairs) == {("a", "b"): 0.03, ("a", "c"): 0.06, ("b", "c"): 0.06}
    assert holm({("a", "b"): 0.6, ("a", "c"): 0.7}) == {("a", "b"): 1.0, ("a", "c"): 1.0}
    assert holm({}) == {}
