"""The pruned nearest-neighbour search returns the codes of the exhaustive search."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from vqlab.errors import UserError
from vqlab.nn.hierarchy import Coreset
from vqlab.nn.nearest import ALL_AXES, MINIMUM, NearestSearch


def features(count: int, seed: int, dim: int = 160, axes: int = 20) -> Tensor:
    """Return vectors whose variance decreases along their axes, as in network features."""
    generator = torch.Generator().manual_seed(seed)
    scale = 1 / (1 + torch.arange(dim) / axes)
    mixing = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)))[0]
    return 3 + (torch.randn(count, dim, generator=generator) * scale) @ mixing


def exhaustive(rows: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Return indices and distances in double precision."""
    distance = torch.cdist(
        rows.double(), table.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return distance.argmin(1), distance.amin(1).float()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equals_exhaustive_search_over_many_codes(scale: float) -> None:
    table, rows = scale * features(2000, 0), scale * features(1500, 1)
    rows = torch.cat([rows, 5 * rows[:20], table[:50] + 1e-4 * rows[:50]])
    assert len(table) >= MINIMUM and table.shape[1] > ALL_AXES[-1]
    index, distance = NearestSearch()(rows, table)
    expected, expected_distance = exhaustive(rows, table)
    assert float((index == expected).float().mean()) >= 0.9999
    torch.testing.assert_close(distance, expected_distance)


@pytest.mark.parametrize("width", [6, 5, 0])
def test_codes_are_independent_of_the_map_width(width: int) -> None:
    table, corners = features(700, 0), features(4, 1).T.reshape(1, -1, 2, 2)
    maps = torch.nn.functional.interpolate(corners, (30, width or 7), mode="bilinear")
    rows = maps[0].flatten(1).T
    index, distance = NearestSearch()(rows, table, width=width)
    expected, expected_distance = exhaustive(rows, table)
    assert torch.equal(index, expected)
    torch.testing.assert_close(distance, expected_distance)


def test_first_of_equal_codes_is_returned() -> None:
    table = features(MINIMUM, 0).repeat(2, 1)
    assert torch.equal(NearestSearch()(table, table)[0], torch.arange(MINIMUM).repeat(2))


def test_excluded_codes_are_never_returned() -> None:
    excluded = torch.arange(0, 1000, 3)
    for table, rows in (
        (features(1000, 0), features(200, 1)),
        (features(1000, 0, 8), features(200, 1, 8)),
    ):
        others = torch.ones(1000, dtype=torch.bool)
        others[excluded] = False
        expected = others.nonzero()[:, 0][exhaustive(rows, table[others])[0]]
        assert torch.equal(NearestSearch()(rows, table, excluded)[0], expected)


@pytest.mark.parametrize("dim", [160, 8])  # with bounds, and without
def test_codes_within_reach_of_any_row(dim: int) -> None:
    table, rows = features(1000, 0, dim), features(200, 1, dim)
    norms = table.norm(dim=1)
    near = torch.tensor([3, 500, 998])
    direction = torch.nn.functional.normalize(features(3, 2, dim), dim=1)
    rows[7:10] = table[near] + 0.9e-3 * norms[near][:, None] * direction
    rows[20:23] = table[near + 1] + 1.1e-3 * norms[near + 1][:, None] * direction
    search = NearestSearch()
    assert search.within(rows, table, 1e-3).tolist() == near.tolist()
    assert search.within(table, table, 1e-3).tolist() == list(range(1000))
    assert search.within(rows[:5], table, 1e-3).tolist() == []


def test_search_uses_updated_codes() -> None:
    coreset, other = Coreset(600, 160), Coreset(600, 160)
    torch.manual_seed(0)
    coreset.fit(features(700, 0))
    rows = features(50, 1)
    first = coreset(rows)[0]
    other.fit(features(700, 2))
    other(rows)
    for copied in (copy.deepcopy(other), pickle.loads(pickle.dumps(other)), other):
        copied.load_state_dict(coreset.state_dict())
        assert torch.equal(copied(rows)[0], first)
    coreset.fit(features(700, 3))
    assert torch.equal(coreset(rows)[0], exhaustive(rows, coreset.vectors)[0])


def test_codes_that_are_not_finite_raise() -> None:
    table = features(MINIMUM, seed=0)
    table[7, 3] = torch.nan
    with pytest.raises(UserError, match="codes of a model must be finite numbers"):
        NearestSearch()(features(2, seed=1), table)
