"""Predicted masks that agree with the verdicts of images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.evaluation.thresholds import Thresholds
from vqlab.verdict import PASS, Verdict

Array = NDArray[Any]
PEAK = 0.001
"""Maximum share of pixels (without ties) marked in an image that does not pass and has none above
the pixel threshold."""


def predicted_mask(
    anomaly_map: Array, thresholds: Thresholds, verdict: Verdict, inspected: Array | None = None
) -> Array:
    """Return the predicted mask (H, W), bool, of an image with this verdict; empty if it passed.

    An image in review or rejected is marked where its map (H, W) exceeds the pixel threshold t,
    without the slopes around a defect: in a region above t with peak p, where it also reaches
    t + `region_height` · (p − t). If no pixel exceeds t, its peak is marked: the highest 0.1 % of
    the pixels that reach half the peak's height over the median. Pixels of a passed image may
    exceed t, which is chosen by a share of normal pixels. inspected (H, W): pixels that may be
    marked, at least one; None: all.
    """
    if verdict == PASS:
        return np.zeros(anomaly_map.shape, bool)
    allowed = np.True_ if inspected is None else inspected
    above: Array = (anomaly_map > thresholds.pixel) & allowed
    if above.any():
        return _without_slopes(anomaly_map, above, thresholds)
    values = anomaly_map if inspected is None else anomaly_map[inspected]
    middle, high = float(np.median(values)), float(values.max())
    rare = float(np.quantile(values, 1 - PEAK, method="higher"))
    peak: Array = (anomaly_map >= min(high, max(rare, middle / 2 + high / 2))) & allowed
    return peak


def _without_slopes(anomaly_map: Array, above: Array, thresholds: Thresholds) -> Array:
    """Return the pixels of the regions `above` (H, W) without their slopes."""
    if thresholds.region_height == 0:
        return above
    from scipy import ndimage  # slow to import

    labels, count = ndimage.label(above, np.ones((3, 3)))
    peaks = ndimage.maximum(anomaly_map, labels, np.arange(count + 1)).astype(np.float64)
    rest, share = thresholds.pixel * (1 - thresholds.region_height), thresholds.region_height
    reached: Array = anomaly_map >= np.minimum(rest + share * peaks, peaks)[labels]
    return above & reached
