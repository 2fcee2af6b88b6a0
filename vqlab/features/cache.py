"""Cache the features of a set of images on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vqlab.config import digest
from vqlab.features.backbone import Backbone
from vqlab.features.store import CachedRecords, Halves, cached_records
from vqlab.types import Batch, ImageRecord, InputSpec, Pyramid, indices_by_category

BATCH = 16
LAYOUT = "channels last"
"""Memory layout of the network: features of another layout differ by rounding."""
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


class Images(Protocol):
    """The part of `vqlab.data.ImageSet` that features need."""

    def __len__(self) -> int: ...
    @property
    def records(self) -> tuple[ImageRecord, ...]: ...
    @property
    def origin(self) -> tuple[Any, Sequence[int]]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def is_tiles(self) -> bool: ...
    @property
    def image_count(self) -> int: ...
    def subset(self, indices: Sequence[int]) -> Any: ...
    def input_shape(self, index: int) -> tuple[int, int]: ...
    def chunks(self, order: Sequence[int], size: int) -> Iterator[Sequence[int]]: ...
    def grouped(self, order: Sequence[int], size: int) -> Sequence[int]: ...
    def batches(self, size: int, order: Sequence[int] | None = None) -> Iterator[Batch]: ...


class CachedFeatures:
    """The features of N images on disk; `cached(indices)` is their pyramid on the device."""

    def __init__(
        self,
        specs: Sequence[InputSpec],
        device: torch.device,
        files: Sequence[CachedRecords],
        locations: Sequence[tuple[int, int]],
    ) -> None:
        """specs: of the images in each file. locations: index into `files` and row in that file,
        for each image."""
        self._specs, self.files = specs, files
        self._device, self._locations = device, locations

    def __call__(self, indices: Sequence[int]) -> Pyramid:
        """Return the pyramid of the images at `indices`, float32, as the backbone computes it. All
        must have the same input shape."""
        shapes = _shapes(self._specs[self._locations[indices[0]][0]])
        lengths = [math.prod(shape) for shape in shapes]
        halves = np.empty((len(indices), sum(lengths)), np.float16)
        for position, index in enumerate(indices):
            file, row = self._locations[index]
            halves[position] = self.files[file].records[row]
        levels = torch.split(torch.from_numpy(halves).to(self._device), lengths, dim=1)
        pairs = zip(levels, shapes, strict=True)
        return tuple(level.float().view(-1, *shape) for level, shape in pairs)


def cached_features(
    backbone: Callable[[Tensor], Pyramid],
    images: Images,
    device: torch.device,
    progress: Progress | None = None,
) -> CachedFeatures | None:
    """Return the features of a set of images, extracted now if they are not on disk.

    None for `pixels`, for a backbone without `features.cache`, and for no images. There is one file
    per category of the dataset and input shape, shared by all subsets and by models of several
    categories.
    `progress` is called while features are extracted. Raises UserError if they cannot be written.
    """
    if not isinstance(backbone, Backbone) or not backbone.cacheable or not len(images):
        return None
    dataset, positions = images.origin
    groups = indices_by_category(dataset.records)
    files: list[CachedRecords] = []
    specs: list[InputSpec] = []
    locations: dict[int, tuple[int, int]] = {}
    for category in sorted({record.category for record in images.records}):
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index in groups[category]:
            by_shape.setdefault(dataset.input_shape(index), []).append(index)
        for shape, indices in by_shape.items():
            locations |= {index: (len(files), row) for row, index in enumerate(indices)}
            part = dataset.subset(indices)
            specs.append(backbone.spec_at(shape))
            files.append(_cached_part(backbone, part, specs[-1], device, progress))
    return CachedFeatures(specs, device, files, [locations[i] for i in positions])


def _shapes(spec: InputSpec) -> list[tuple[int, int, int]]:
    """Return the shape (C, h, w) of each level."""
    return [(c, h, w) for c, (h, w) in zip(spec.channels, spec.sizes, strict=True)]


def _cached_part(
    backbone: Backbone,
    images: Images,
    spec: InputSpec,
    device: torch.device,
    progress: Progress | None,
) -> CachedRecords:
    """Return the features of images of one category and input shape."""
    name, category = backbone.settings.backbone, images.records[0].category
    length = sum(map(math.prod, _shapes(spec)))
    key = digest([backbone.key, device.type, images.fingerprint, LAYOUT])
    about = {"key": key, "backbone": name, "category": category}

    def extract() -> Iterator[Halves]:
        done = 0
        for batch in images.batches(BATCH):
            pyramid = backbone(batch.images.to(device))
            flat = torch.cat([level.flatten(1) for level in pyramid], dim=1)
            yield flat.half().cpu().numpy()
            done += len(batch)
            if progress is not None:
                progress(done, len(images))

    file = f"{name.replace('/', '_')}-{key[:24]}"
    return cached_records(file, about, len(images), length, extract)
