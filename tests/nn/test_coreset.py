"""Greedy k-centre selection, compared with a direct implementation."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from vqlab.nn import coreset
from vqlab.nn.coreset import k_centre, random_projection


def reference_k_centre(rows: Tensor, size: int, first: int) -> list[int]:
    """Greedy k-centre in float64: every row is compared with every centre."""
    rows = rows.double()
    chosen = [first]
    distance = (rows - rows[first]).square().sum(1)
    while len(chosen) < size:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (rows - rows[chosen[-1]]).square().sum(1))
    return chosen


def radius(rows: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(rows.double(), centres.double()).amin(1).max())


@pytest.mark.parametrize(
    ("count", "dim", "size"), [(1, 3, 1), (7, 2, 7), (300, 5, 40), (6000, 24, 500)]
)
@pytest.mark.parametrize("active", [16, 2048])
def test_equals_reference_implementation(
    count: int, dim: int, size: int, active: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreset, "ACTIVE", active)
    monkeypatch.setattr(coreset, "ROWS", 8)
    torch.manual_seed(count)
    rows = torch.randn(count, dim) * torch.linspace(0.2, 3, dim) + 5
    chosen = k_centre(rows, size)
    assert chosen.tolist() == reference_k_centre(rows, size, int(chosen[0]))


def test_radius_is_at_most_twice_the_optimum() -> None:
    torch.manual_seed(3)
    rows = torch.rand(14, 2)
    best = min(radius(rows, rows[list(pick)]) for pick in combinations(range(14), 4))
    for seed in range(10):
        torch.manual_seed(seed)
        assert radius(rows, rows[k_centre(rows, 4)]) <= 2 * best + 1e-6


def test_rare_rows_are_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows far from thousands of similar rows are selected; random sampling would miss
    them."""
    monkeypatch.setattr(coreset, "ACTIVE", 64)
    torch.manual_seed(0)
    centres = 50 * torch.eye(8)
    rows = torch.cat([torch.randn(3000, 8) * 0.1, centres + 0.1 * torch.randn(8, 8)])
    assert set(k_centre(rows, 9).tolist()) >= set(range(3000, 3008))


def test_distinct_rows_are_selected_before_duplicates() -> None:
    rows = torch.tensor([[0.0], [1], [1], [4], [4], [4]])
    chosen = k_centre(rows, 8)
    assert len(chosen) == 8
    assert set(rows[chosen[:3], 0].tolist()) == {0.0, 1.0, 4.0}
    assert len(k_centre(torch.full((5000, 3), 0.1), 6)) == 6


def test_selection_depends_on_the_seed() -> None:
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(1))
    picks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        picks.append(k_centre(rows, 20, dim=4))
    assert torch.equal(picks[0], picks[1]) and not torch.equal(picks[0], picks[2])


def test_half_precision_radius_is_close_to_float32() -> None:
    rows = torch.randn(4000, 16, generator=torch.Generator().manual_seed(1))
    full, half = (radius(rows, rows[k_centre(r, 100)]) for r in (rows, rows.half()))
    assert half < 1.05 * full


def test_projection_approximately_preserves_distances() -> None:
    torch.manual_seed(0)
    rows = torch.randn(400, 200) + 30
    assert torch.equal(random_projection(rows, None), random_projection(rows, 200))
    moved = random_projection(rows, 100)
    assert moved.shape == (400, 100)
    torch.testing.assert_close(moved.mean(0), torch.zeros(100), atol=1e-3, rtol=0)
    share = torch.pdist(moved) / torch.pdist(rows)
    assert abs(float(share.mean()) - 1) < 0.1 and float(share.std()) < 0.1


def test_empty_input_raises() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        k_centre(torch.zeros(0, 3), 2)
