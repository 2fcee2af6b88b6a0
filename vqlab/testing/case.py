"""A detector with images to check it on: rings of 32 px, with and without an anomaly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vqlab.config import validate
from vqlab.detectors import Detector, detector_class
from vqlab.types import InputSpec, Sample, UserError

SIDE = 32


SPEC = InputSpec(channels=(3,), sizes=((SIDE, SIDE),), image_size=(SIDE, SIDE))
"""A pyramid of one level: the image itself."""


PYRAMID = InputSpec(channels=(6, 8), sizes=((16, 16), (8, 8)), image_size=(SIDE, SIDE))
"""Two levels, like those of a backbone."""


@dataclass(frozen=True)
class DetectorCase:
    """A registered detector with settings to check it with."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from the defaults, as in section `detector` of a recipe."""
    spec: InputSpec = SPEC
    """`SPEC` or `PYRAMID`."""

    def build(self, seed: int = 0) -> Detector:
        """Return a new detector for images of 32 px."""
        torch.manual_seed(seed)
        kind = detector_class(self.name)
        return kind(validate(kind.Config, self.settings), self.spec)

    @property
    def accepted(self) -> bool:
        """Whether the detector can be built for `spec`."""
        try:
            self.build()
        except UserError:
            return False
        return True

    def sample(self, images: Tensor) -> Sample:
        """Return images (B, 3, 32, 32) with the pyramid that `spec` describes."""
        return as_sample(images, self.spec)

    @cached_property
    def trained(self) -> Detector:
        """A detector trained for 80 steps; checks must not change its state."""
        return train(self.build(), steps=80)

    @cached_property
    def briefly_trained(self) -> Detector:
        """A detector trained for 25 steps; checks may change its counts of usage only."""
        return train(self.build(), steps=25)


def products(count: int, seed: int) -> Tensor:
    """Return images (N, 3, 32, 32) of a ring, with random brightness, position and noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    shift = torch.rand(count, 2, 1, 1, generator=generator) * 2
    far = ((y - 15 - shift[:, 0]).square() + (x - 15 - shift[:, 1]).square()).sqrt()
    ring = torch.exp(-0.5 * ((far - 9) / 2).square())
    colour = torch.tensor([0.4, 0.2, -0.1]).view(1, 3, 1, 1)
    light = 1 + 0.1 * torch.rand(count, 1, 1, 1, generator=generator)
    noise = 0.02 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return ((0.4 + colour * ring[:, None]) * light + noise).clamp(0, 1)


def with_anomaly(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images with a dark bar across the ring, and its mask (H, W)."""
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[20:26, 8:14] = True
    return torch.where(mask, 0.05, images), mask


def as_sample(images: Tensor, spec: InputSpec = SPEC) -> Sample:
    """Return images (B, 3, H, W) with a pyramid of the images themselves (`SPEC`), or of levels of
    fixed random filter responses."""
    if spec == SPEC:
        return Sample(images, (images,))
    generator = torch.Generator().manual_seed(5)
    levels = []
    for channels, size in zip(spec.channels, spec.sizes, strict=True):
        filters = torch.randn(channels, 3, 3, 3, generator=generator)
        response = torch.nn.functional.conv2d(images, filters, padding=1)
        grid = size[0] * images.shape[2] // SIDE, size[1] * images.shape[3] // SIDE
        levels.append(torch.nn.functional.adaptive_avg_pool2d(response, grid))
    return Sample(images, tuple(levels))


def batches(images: Tensor, spec: InputSpec = SPEC) -> list[Sample]:
    """Return the images as samples of 8 images each."""
    return [as_sample(part, spec) for part in torch.split(images, 8)]


def train(detector: Detector, steps: int) -> Detector:
    """Prepare, train and calibrate a detector on images of `products`."""
    images = products(32, seed=1)
    torch.manual_seed(7)
    detector.train()
    detector.prepare(batches(images, detector.spec))
    weights = list(detector.parameters())
    optimizer = torch.optim.Adam(weights, 3e-3) if weights else None
    for _ in range(steps if optimizer else 0):
        batch = images[torch.randperm(len(images))[:8]]
        loss = detector.loss(as_sample(batch, detector.spec))["loss"]
        assert optimizer is not None
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    detector.eval()
    held_out = products(16, seed=2)
    detector.calibrate(batches(images, detector.spec), batches(held_out, detector.spec))
    return detector
