"""Image scores from anomaly maps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

ImageScore = Literal["max", "mean", "top"]


def image_score(maps: Tensor, kind: ImageScore, top: float = 1.0) -> Tensor:
    """Return image scores (B,) of maps (B, H, W): the maximum, the mean, or the mean of the highest
    fraction `top` of the pixels (at least one)."""
    flat = maps.flatten(1)
    if kind == "max":
        return flat.amax(1)
    if kind == "top":
        flat = flat.topk(max(1, round(top * flat.shape[1])), sorted=False).values
    return flat.mean(1)
