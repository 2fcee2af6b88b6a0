"""Image scores from anomaly maps."""

from __future__ import annotations

import math
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


def total_variation(maps: Tensor) -> Tensor:
    """Return the total variation (B,) of maps (B, H, W): the absolute differences between
    neighbours in rows and in columns, summed and divided by √(H·W).

    It has the unit of the map and hardly depends on its resolution. It grows with the number, size
    and height of raised regions, not only with the highest (after StructCore, arXiv 2602.17048).
    """
    columns, rows = (maps.diff(dim=axis).abs().sum((1, 2)) for axis in (1, 2))
    return (columns + rows) / math.sqrt(maps[0].numel())
