"""The score of a whole image, from its anomaly map."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

ImageScore = Literal["max", "mean", "top"]


def image_score(maps: Tensor, kind: ImageScore, top: float = 1.0) -> Tensor:
    """Of maps (B, H, W): each one's maximum, its mean, or the mean of its highest share `top`, at
    least one pixel; (B,)."""
    flat = maps.flatten(1)
    if kind == "max":
        return flat.amax(1)
    if kind == "top":
        flat = flat.topk(max(1, round(top * flat.shape[1])), sorted=False).values
    return flat.mean(1)
