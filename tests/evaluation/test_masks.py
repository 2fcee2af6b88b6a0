"""A predicted mask is empty if and only if the image passed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from vqlab.evaluation import PASS, REJECT, REVIEW, Thresholds, Verdict, predicted_mask

MAPS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40),
              elements=st.floats(-(2.0**99), 2.0**99, width=32))  # fmt: skip


@given(MAPS, st.floats(-1e30, 1e30), st.sampled_from([PASS, REVIEW, REJECT]),
       st.sampled_from([0.0, 0.4, 0.99]))  # fmt: skip
def test_mask_is_empty_if_and_only_if_the_image_passed(
    anomaly_map: np.ndarray, pixel_threshold: float, verdict: Verdict, region_height: float
) -> None:
    thresholds = Thresholds(0.0, pixel_threshold, region_height=region_height)
    mask = predicted_mask(anomaly_map, thresholds, verdict)
    assert mask.dtype == bool and mask.shape == anomaly_map.shape
    assert mask.any() == (verdict != PASS)
    above = anomaly_map > pixel_threshold
    if verdict != PASS and above.any():
        assert (mask <= above).all()
        labels, count = ndimage.label(above, np.ones((3, 3)))
        assert set(labels[mask]) == set(range(1, count + 1))  # each region contains its peak
        assert region_height > 0 or (mask == above).all()
    elif verdict != PASS:
        assert mask[anomaly_map == anomaly_map.max()].all()


def test_the_peak_is_small() -> None:
    noise = np.random.default_rng(0).random((100, 100))
    assert (
        predicted_mask(noise, Thresholds(0.0, 2.0), REJECT).sum() == 10
    )  # one pixel in a thousand
    spot = np.zeros((100, 100))
    spot[3, 4], spot[50, 50] = 1.0, 0.4
    assert np.argwhere(predicted_mask(spot, Thresholds(0.0, 2.0), REJECT)).tolist() == [[3, 4]]


def test_regions_exclude_the_slopes_of_peaks() -> None:
    """Separate cones of radius 20 with peaks 10 and 4 above the threshold 2."""
    rows, columns = np.mgrid[:60, :120]

    def cone(column: int, peak: float) -> np.ndarray:
        return peak * np.clip(1 - np.hypot(rows - 30, columns - column) / 20, 0, None)

    anomaly_map = np.maximum(cone(30, 10.0), cone(90, 4.0))
    thresholds = Thresholds(0.0, 2.0, region_height=0.5)
    mask = predicted_mask(anomaly_map, thresholds, REJECT)
    expected = np.where(columns < 60, anomaly_map >= 6.0, anomaly_map >= 3.0)
    assert (mask == expected).all() and mask[30, 90]
