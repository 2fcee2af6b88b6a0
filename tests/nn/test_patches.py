"""Patch features, compared with their definition, and sampling of rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vqlab.nn.patches import neighbourhood_mean, patch_features, sample_rows, to_rows


def test_patch_is_the_neighbourhood_mean_at_every_level() -> None:
    torch.manual_seed(0)
    fine, coarse = torch.randn(2, 3, 8, 6), torch.randn(2, 5, 4, 3)
    patches = patch_features((fine, coarse))
    assert patches.shape == (2, 8, 8, 6)
    torch.testing.assert_close(patches[:, :3, 4, 2], fine[:, :, 3:6, 1:4].mean((2, 3)))
    torch.testing.assert_close(patches[:, :3, 0, 0], fine[:, :, :2, :2].sum((2, 3)) / 9)
    mean = F.pad(coarse, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).mean((4, 5))
    # Row 3 of 8 is a quarter of the way from row 1 of 4 to row 2; column 2 of 6 is three quarters
    # of the way from column 0 of 3 to column 1.
    rows = 0.75 * mean[:, :, 1] + 0.25 * mean[:, :, 2]
    torch.testing.assert_close(patches[:, 3:, 3, 2], 0.25 * rows[:, :, 0] + 0.75 * rows[:, :, 1])


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_neighbourhoods_equal_average_pooling(kernel: int) -> None:
    maps = torch.randn(2, 3, 8, 6)  # narrower than the largest neighbourhood
    before = maps.clone()
    pooled = F.avg_pool2d(maps, kernel, stride=1, padding=kernel // 2)
    torch.testing.assert_close(neighbourhood_mean(maps, kernel), pooled)
    assert torch.equal(maps, before)


def test_kernel_of_one_is_the_identity_on_the_finest_level() -> None:
    fine = torch.randn(1, 3, 8, 8)
    assert torch.equal(patch_features((fine,), kernel=1), fine)


def test_rows_are_positions_in_row_major_order() -> None:
    maps = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    rows = to_rows(maps)
    assert rows.shape == (8, 3)
    assert torch.equal(rows[1], maps[0, :, 0, 1]) and torch.equal(rows[6], maps[1, :, 1, 0])


def test_all_rows_are_kept_in_order_below_the_limit() -> None:
    rows = torch.randn(50, 4).half()
    assert torch.equal(sample_rows(rows.split(7), 50), rows)


def test_sampling_is_uniform_over_the_stream() -> None:
    torch.manual_seed(0)
    rows = torch.arange(1000.0)[:, None]
    counts = torch.zeros(1000)
    for _ in range(200):
        sampled = sample_rows(rows.split(90), 100)[:, 0].long()
        assert len(sampled) == 100 and bool((sampled.diff() > 0).all())
        counts[sampled] += 1
    tenths = counts.view(10, 100).sum(1) / 200  # mean samples per hundred rows: 10 on average
    assert float((tenths - 10).abs().max()) < 1


def test_sampling_from_an_empty_stream_raises() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        sample_rows([], 5)
