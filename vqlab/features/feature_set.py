"""The images of a set with their features, which are cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from vqlab.features.cache import CachedFeatures, Images, Progress, cached_features
from vqlab.types import Batch, Pyramid, Sample

CPU = torch.device("cpu")


class FeatureSet:
    """N images with their features, batch by batch; may be iterated any number of times.

    Hides the cache: features are extracted at the first access and read from disk afterwards.
    Raises UserError if they cannot be written.
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

    def __iter__(self) -> Iterator[Sample]:
        """Yield all images in order."""
        return self.in_order(range(len(self)), self.batch_size)

    def subset(self, indices: Sequence[int]) -> FeatureSet:
        """Return the features of the images at `indices`."""
        images = self.images.subset(indices)
        return FeatureSet(images, self.backbone, self.device, self.batch_size)

    def cached(self, progress: Progress | None = None) -> CachedFeatures | None:
        """Return the features on disk, extracted now if they are missing; None without a cache."""
        return cached_features(self.backbone, self.images, self.device, progress)

    def in_order(self, order: Sequence[int], batch_size: int) -> Iterator[Sample]:
        """Yield the images at the indices `order`, at most `batch_size` at a time, split where
        their input shape changes.

        With a cache, images are read only when a detector accesses `Sample.image`.
        """
        cached = self.cached()
        if cached is None:
            for batch in self.images.batches(batch_size, order):
                images = batch.images.to(self.device)
                yield Sample(images, self.backbone(images))
            return
        for indices in self.images.chunks(order, batch_size):
            yield Sample(partial(self._load, indices), cached(indices))

    def grouped(self, order: Sequence[int], batch_size: int) -> Iterator[list[Sample]]:
        """Yield the images at the indices `order`, `batch_size` at a time, as one sample for each
        input shape."""
        parts: list[Sample] = []
        remaining = len(order)
        for sample in self.in_order(self.images.grouped(order, batch_size), batch_size):
            parts.append(sample)
            if sum(map(len, parts)) == min(batch_size, remaining):
                yield parts
                remaining -= sum(map(len, parts))
                parts = []

    def _load(self, indices: Sequence[int]) -> Tensor:
        (batch,) = self.images.batches(len(indices), indices)
        return batch.images.to(self.device)

    def with_batches(self, progress: Progress | None = None) -> Iterator[tuple[Batch, Sample]]:
        """Yield all batches with their ground truth; `progress` is called while features are
        extracted."""
        cached, done = self.cached(progress), 0
        for batch in self.images.batches(self.batch_size):
            if cached is None:
                images = batch.images.to(self.device)
                yield batch, Sample(images, self.backbone(images))
            else:
                pyramid = cached(range(done, done + len(batch)))
                yield batch, Sample(partial(batch.images.to, self.device), pyramid)
            done += len(batch)
