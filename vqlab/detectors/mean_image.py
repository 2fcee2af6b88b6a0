"""No-learning baseline: distance of each pixel from the mean training image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import Tensor

from vqlab.config import Settings
from vqlab.detectors.base import Detector, register
from vqlab.detectors.capabilities import Extracted
from vqlab.nn.smoothing import upsample
from vqlab.types import InputSpec, Pyramid, Sample, Scores


class Scoring(Settings):
    """Settings that may change without refitting."""

    smoothing: float = Field(default=1 / 64, ge=0, le=0.25)
    """Standard deviation of the Gaussian smoothing, as a fraction of the image side."""


class MeanImageSettings(Settings):
    """Settings of `mean_image`; its recipe sets `training.epochs: 0`."""

    floor: float = Field(default=0.02, gt=0, le=1)
    """Lower bound of the standard deviation of a pixel, in the units of the image."""
    scoring: Scoring = Scoring()


@register("mean_image")
class MeanImage(Detector):
    """|x − mean training image| / standard deviation per pixel, mean over channels, smoothed.

    The image score is the maximum of the map. Uses the finest level of the pyramid only.
    """

    Config = MeanImageSettings
    config: MeanImageSettings
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
            level = sample.pyramid[0]
            total += level.double().sum(0)
            squares += level.double().square().sum(0)
            count += len(level)
        mean = total / count
        self.mean.copy_(mean)
        self.sd.copy_((squares / count - mean.square()).clamp_min(0).sqrt())

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        return {"loss": self._distance(sample.pyramid).mean()}

    @torch.no_grad()
    def score(self, sample: Sample) -> Scores:
        return self.scores(self.extract(sample))

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Return the distance of each pixel, (B, h, w)."""
        return (self._distance(sample.pyramid),)

    @torch.no_grad()
    def scores(self, extracted: Extracted) -> Scores:
        maps = upsample(extracted[0], self.spec.image_size, self.config.scoring.smoothing)
        return Scores(maps, maps.amax((1, 2)))

    @classmethod
    def can_rescore(cls, calibrated: Settings, wanted: Settings) -> bool:
        return True

    def _distance(self, pyramid: Pyramid) -> Tensor:
        sd = self.sd.clamp_min(self.config.floor)
        return ((pyramid[0].float() - self.mean).abs() / sd).mean(1)

    def panels(self, extracted: Extracted) -> dict[str, Tensor]:
        if self.mean.shape[0] != 3:
            return {}
        return {"reconstruction": self.mean.expand(len(extracted[0]), -1, -1, -1)}
