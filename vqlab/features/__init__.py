"""Features: a frozen backbone turns images into pyramids. `pixels` is the image itself."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from vqlab.config import Settings
from vqlab.types import InputSpec, Pyramid


class FeatureSettings(Settings):
    """Section `features`: which frozen network looks at the images before the detector."""

    backbone: Literal["pixels"] = "pixels"
    """`pixels`: the image itself, a pyramid of one level."""


class Backbone(nn.Module):
    """Images (B, 3, S, S) in [0, 1] → pyramid; frozen, the same for every run."""

    def __init__(self, settings: FeatureSettings, image_size: int) -> None:
        super().__init__()
        side = (image_size, image_size)
        self.spec = InputSpec(channels=(3,), sizes=(side,), image_size=side)

    def forward(self, images: Tensor) -> Pyramid:
        return (images,)
