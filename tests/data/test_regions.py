"""Regions of a predicted mask, compared with SciPy's labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from vqlab.data import find_regions


def test_regions_equal_manual_calculation() -> None:
    values = np.zeros((8, 10), np.float32)
    values[1:3, 2:6] = 1.0
    values[2, 5] = 3.0
    values[5, 7] = values[6, 8] = 4.0  # connected at a corner
    values[7, 0] = 9.0
    first, second = find_regions(values, values > 0, min_area=2, mm_per_pixel=0.5)
    assert (first.rank, first.box, first.area, first.area_mm2) == (1, (7, 5, 2, 2), 2, 0.5)
    assert (first.peak, first.peak_at) == (4.0, (7, 5))
    assert (second.rank, second.box, second.area, second.area_mm2) == (2, (2, 1, 4, 2), 8, 2.0)
    assert (second.peak, second.peak_at) == (3.0, (5, 2))
    assert set(second.contour) == {(2, 1), (2, 2), (5, 2), (5, 1)}
    assert find_regions(values, values > 10) == ()
    with pytest.raises(ValueError, match="the same shape"):
        find_regions(values, values[:4] > 0)


@pytest.mark.parametrize("seed", range(5))
def test_regions_equal_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = ndimage.gaussian_filter(rng.normal(size=(60, 80)), 2).astype(np.float32)
    mask = values > 0.1
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    index = np.arange(1, count + 1)
    expected = sorted(
        zip(
            -ndimage.maximum(values, labels, index),
            ndimage.sum(mask, labels, index),
            strict=True,
        )
    )
    regions = find_regions(values, mask)
    assert count > 3
    assert [(-region.peak, region.area) for region in regions] == expected
    for region in regions:
        column, row = region.peak_at
        left, top, width, height = region.box
        assert values[row, column] == np.float32(region.peak) and mask[row, column]
        assert left <= column < left + width and top <= row < top + height
        assert region.area_mm2 is None


def test_areas_have_no_rounding_errors() -> None:
    mask = np.ones((3, 7), bool)
    [region] = find_regions(np.ones((3, 7), np.float32), mask, mm_per_pixel=0.1)
    assert str(region.area_mm2) == "0.21"
