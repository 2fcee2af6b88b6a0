"""Aspect ratios of images, compared with those of the training images."""

from __future__ import annotations

from collections.abc import Sequence

MAX_RATIO = 1.5
"""Ratio of two aspect ratios at which they count as very different."""


def unusual_shape(size: Sequence[int], ratios: tuple[float, float] | None) -> str:
    """Return a note if the aspect ratio of an image of `size` (H, W) is very different from those
    of all training images, else an empty text.

    ratios: the lowest and the highest width / height of the training images; None: not known.
    """
    if ratios is None or ratios[0] / MAX_RATIO < size[1] / size[0] < ratios[1] * MAX_RATIO:
        return ""
    low, high = (f"{ratio:.3g}" for ratio in ratios)
    trained = low if low == high else f"{low} to {high}"
    return (
        f"it is {size[1]}x{size[0]} pixels, an aspect ratio of {size[1] / size[0]:.3g}, but "
        f"training images have {trained}: its score may mean little"
    )
