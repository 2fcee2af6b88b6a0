"""The pyramids of a set of images, read from the cache where they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from vqlab.features.cache import Images, KeptFeatures, Progress, kept_features
from vqlab.types import Batch, Pyramid

CPU = torch.device("cpu")


class FeatureSet:
    """The pyramids of N images, batch by batch; may be iterated any number of times.

    Hides the cache: features are extracted at the first access and read from disk afterwards.
    Raises UserError where they cannot be written.
    """

    def __init__(
        self,
        images: Images,
        backbone: Callable[[Tensor], Pyramid],
        device: torch.device = CPU,
        batch_size: int = 16,
    ) -> None:
        self.images, self.backbone, self.device = images, backbone, device
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Pyramid]:
        """Yield the pyramids of all images in order."""
        return self.in_order(range(len(self)), self.batch_size)

    def subset(self, indices: Sequence[int]) -> FeatureSet:
        """Return the features of the images at `indices`."""
        images = self.images.subset(indices)
        return FeatureSet(images, self.backbone, self.device, self.batch_size)

    def cached(self, progress: Progress | None = None) -> KeptFeatures | None:
        """Return the features on disk, extracted now where they are not; None without a cache."""
        return kept_features(self.backbone, self.images, self.device, progress)

    def in_order(self, order: Sequence[int], batch_size: int) -> Iterator[Pyramid]:
        """Yield the pyramids of the images at the indices `order`, `batch_size` at a time."""
        cached = self.cached()
        if cached is None:
            for batch in self.images.batches(batch_size, order):
                yield self.backbone(batch.images.to(self.device))
            return
        for start in range(0, len(order), batch_size):
            yield cached(order[start : start + batch_size])

    def with_images(self, progress: Progress | None = None) -> Iterator[tuple[Batch, Pyramid]]:
        """Yield batches with their pyramids; `progress` is called while features are extracted."""
        cached, done = self.cached(progress), 0
        for batch in self.images.batches(self.batch_size):
            if cached is None:
                pyramid = self.backbone(batch.images.to(self.device))
            else:
                pyramid = cached(range(done, done + len(batch)))
            done += len(batch)
            yield batch, pyramid
