"""A predicted mask is empty exactly where the image passed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vqlab.evaluation import PASS, REJECT, REVIEW, Verdict, predicted_mask

MAPS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40),
              elements=st.floats(-(2.0**99), 2.0**99, width=32))  # fmt: skip


@given(MAPS, st.floats(-1e30, 1e30), st.sampled_from([PASS, REVIEW, REJECT]))
def test_a_mask_is_empty_exactly_where_the_image_passed(
    anomaly_map: np.ndarray, pixel_threshold: float, verdict: Verdict
) -> None:
    mask = predicted_mask(anomaly_map, pixel_threshold, verdict)
    assert mask.dtype == bool and mask.shape == anomaly_map.shape
    assert mask.any() == (verdict != PASS)
    above = anomaly_map > pixel_threshold
    if verdict != PASS and above.any():
        assert (mask == above).all()
    elif verdict != PASS:
        assert mask[anomaly_map == anomaly_map.max()].all()


def test_the_peak_is_small() -> None:
    noise = np.random.default_rng(0).random((100, 100))
    assert predicted_mask(noise, 2.0, REJECT).sum() == 10  # one in a thousand pixels
    spot = np.zeros((100, 100))
    spot[3, 4], spot[50, 50] = 1.0, 0.4
    assert np.argwhere(predicted_mask(spot, 2.0, REJECT)).tolist() == [[3, 4]]
