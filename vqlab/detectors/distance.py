"""Detectors whose anomaly map is a distance from the normal images at each position."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from vqlab.config import Settings
from vqlab.detectors.base import Detector
from vqlab.detectors.capabilities import Extracted
from vqlab.nn.smoothing import upsample
from vqlab.types import Pyramid, Sample, Scores


class DistanceScoring(Settings):
    """Settings that may change without refitting."""

    smoothing: float = Field(default=1 / 64, ge=0, le=0.25)
    """Standard deviation of the Gaussian smoothing, as a fraction of the image side."""


class DistanceDetector(Detector):
    """Anomaly map: the distances, smoothed by `config.scoring`; image score: its maximum.

    Nothing is trained; the loss is the mean distance.
    """

    config: Any

    @abstractmethod
    def distances(self, pyramid: Pyramid) -> Tensor:
        """Return the distance at each position, (B, h, w)."""

    def loss(self, sample: Sample) -> dict[str, Tensor]:
        return {"loss": self.distances(sample.pyramid).mean()}

    @torch.no_grad()
    def score(self, sample: Sample) -> Scores:
        return self.scores(self.extract(sample))

    @torch.no_grad()
    def extract(self, sample: Sample) -> Extracted:
        """Return the distances, (B, h, w)."""
        return (self.distances(sample.pyramid),)

    @torch.no_grad()
    def scores(self, extracted: Extracted) -> Scores:
        sigma = self.config.scoring.smoothing * max(self.spec.image_size)
        maps = upsample(extracted[0], self.spec.image_size_of(extracted[0].shape[1:]), sigma)
        return Scores(maps, maps.amax((1, 2)))

    @classmethod
    def can_rescore(cls, calibrated: Settings, new: Settings) -> bool:
        return True
