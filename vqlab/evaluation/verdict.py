"""Verdicts: an image passes or is rejected by its score; its predicted mask follows the verdict."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Verdict = Literal["pass", "reject"]
PASS: Verdict = "pass"
REJECT: Verdict = "reject"
PEAK = 0.001
"""Largest share of the pixels (ties aside) that is marked in a rejected image of which none exceeds
the pixel threshold."""


def verdict_of(score: float, image_threshold: float) -> Verdict:
    """`reject` where the score exceeds the threshold, else `pass`."""
    return REJECT if score > image_threshold else PASS


def predicted_mask(anomaly_map: Array, pixel_threshold: float, verdict: Verdict) -> Array:
    """The predicted mask (H, W), bool, of an image with this verdict: empty only where it passed.

    A rejected image is marked where its map (H, W) exceeds the pixel threshold, or, where no pixel
    does, at its peak: the highest 0.1 % of the pixels, as far as they reach half its height over
    the median. Pixels of a passed image may exceed the pixel threshold: it is chosen by a share of
    normal pixels, and is no verdict on an image.
    """
    if verdict == PASS:
        return np.zeros(anomaly_map.shape, bool)
    above: Array = anomaly_map > pixel_threshold
    if above.any():
        return above
    middle, high = float(np.median(anomaly_map)), float(anomaly_map.max())
    rare = float(np.quantile(anomaly_map, 1 - PEAK, method="higher"))
    peak: Array = anomaly_map >= min(high, max(rare, middle / 2 + high / 2))
    return peak
