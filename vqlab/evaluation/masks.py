"""Predicted masks that agree with the verdicts of images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.verdict import PASS, Verdict

Array = NDArray[Any]
PEAK = 0.001
"""Maximum share of pixels (without ties) marked in an image that does not pass and has none above
the pixel threshold."""


def predicted_mask(
    anomaly_map: Array, pixel_threshold: float, verdict: Verdict, inspected: Array | None = None
) -> Array:
    """Return the predicted mask (H, W), bool, of an image with this verdict; empty if it passed.

    An image in review or rejected is marked where its map (H, W) exceeds the pixel threshold or, if
    no pixel does, at its peak: the highest 0.1 % of the pixels that reach half the peak's height
    over the median. Pixels of a passed image may exceed the pixel threshold, which is chosen by a
    share of normal pixels. inspected (H, W): pixels that may be marked, at least one; None: all.
    """
    if verdict == PASS:
        return np.zeros(anomaly_map.shape, bool)
    allowed = np.True_ if inspected is None else inspected
    above: Array = (anomaly_map > pixel_threshold) & allowed
    if above.any():
        return above
    values = anomaly_map if inspected is None else anomaly_map[inspected]
    middle, high = float(np.median(values)), float(values.max())
    rare = float(np.quantile(values, 1 - PEAK, method="higher"))
    peak: Array = (anomaly_map >= min(high, max(rare, middle / 2 + high / 2))) & allowed
    return peak
