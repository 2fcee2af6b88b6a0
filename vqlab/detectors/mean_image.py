"""No-learning baseline: distance of each pixel from the mean training image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from vqlab.config import Settings
from vqlab.detectors.base import register
from vqlab.detectors.capabilities import Extracted
from vqlab.detectors.distance import DistanceDetector, DistanceScoring
from vqlab.nn.resizing import resized
from vqlab.types import InputSpec, Pyramid, Sample


class MeanImageSettings(Settings):
    """Settings of `mean_image`; its recipe sets `training.epochs: 0`."""

    floor: float = Field(default=0.02, gt=0, le=1)
    """Lower bound of the standard deviation of a pixel, in the units of the image."""
    scoring: DistanceScoring = DistanceScoring()


@register("mean_image")
class MeanImage(DistanceDetector):
    """|x − mean training image| / standard deviation per pixel, mean over channels, smoothed.

    Uses the finest level of the pyramid only, resized to that of a square image.
    """

    Config = MeanImageSettings
    config: MeanImageSettings
    any_shape = True
    mean: Tensor
    sd: Tensor

    def __init__(self, config: MeanImageSettings, spec: InputSpec) -> None:
        super().__init__(config, spec)
        self.register_buffer("mean", torch.full((spec.channels[0], *spec.sizes[0]), 0.5))
        self.register_buffer("sd", torch.ones_like(self.mean))

    def prepare(self, samples: Iterable[Sample]) -> None:
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        squares, count = torch.zeros_like(total), 0
        for sample in samples:
            level = resized(sample.pyramid[0], self.mean)
            total += level.double().sum(0)
            squares += level.double().square().sum(0)
            count += len(level)
        mean = total / count
        self.mean.copy_(mean)
        self.sd.copy_((squares / count - mean.square()).clamp_min(0).sqrt())

    def distances(self, pyramid: Pyramid) -> Tensor:
        sd = self.sd.clamp_min(self.config.floor)
        level = resized(pyramid[0].float(), self.mean)
        return resized(((level - self.mean).abs() / sd).mean(1, keepdim=True), pyramid[0])[:, 0]

    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        if self.mean.shape[0] != 3:
            return {}
        mean = resized(self.mean[None], extracted[0][:, None])
        return {"reconstruction": mean.expand(len(extracted[0]), -1, -1, -1)}
