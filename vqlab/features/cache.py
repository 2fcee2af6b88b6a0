"""The features of a set of images on disk: extracted once, then read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from vqlab.config import digest
from vqlab.features.backbone import Backbone
from vqlab.features.store import Halves, Kept, kept_records
from vqlab.types import Batch, ImageRecord, Pyramid

BATCH = 16
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


class Images(Protocol):
    """What is asked of a set of images; `vqlab.data.ImageSet` is one."""

    def __len__(self) -> int: ...
    @property
    def records(self) -> tuple[ImageRecord, ...]: ...
    @property
    def origin(self) -> tuple[Any, Sequence[int]]: ...
    @property
    def fingerprint(self) -> str: ...
    def subset(self, indices: Sequence[int]) -> Any: ...
    def batches(self, size: int, order: Sequence[int] | None = None) -> Iterator[Batch]: ...


class KeptFeatures:
    """The features of N images on disk; `kept(indices)` is their pyramid on the device."""

    def __init__(self, backbone: Backbone, device: torch.device, count: int) -> None:
        spec, self._device = backbone.spec, device
        self._shapes = [(c, *size) for c, size in zip(spec.channels, spec.sizes, strict=True)]
        self._lengths = [math.prod(shape) for shape in self._shapes]
        self.files: list[Kept] = []
        """One for each category."""
        self._places = np.zeros((count, 2), np.int64)

    @property
    def length(self) -> int:
        """Numbers of one image, all levels."""
        return sum(self._lengths)

    def add(self, file: Kept, images: Sequence[int], rows: Sequence[int]) -> None:
        """The features of `images` (their places in the set) are those rows of `file`."""
        self._places[list(images)] = np.stack([np.full(len(rows), len(self.files)), rows], axis=1)
        self.files.append(file)

    def __call__(self, indices: Sequence[int]) -> Pyramid:
        """The pyramid of the images at `indices`, float32, as the backbone would give it."""
        halves = np.empty((len(indices), self.length), np.float16)
        for to, (file, row) in enumerate(self._places[list(indices)]):
            halves[to] = self.files[file].records[row]
        levels = torch.split(torch.from_numpy(halves).to(self._device), self._lengths, dim=1)
        pairs = zip(levels, self._shapes, strict=True)
        return tuple(level.float().view(-1, *shape) for level, shape in pairs)


def kept_features(
    backbone: Callable[[Tensor], Pyramid],
    images: Images,
    device: torch.device,
    progress: Progress | None = None,
) -> KeptFeatures | None:
    """The features of a set of images, extracted now where they are not on disk.

    Nothing for `pixels`, for a backbone without `features.cache`, and for no images. There is a
    file for each category of the set that `images` are a subset of, so that all subsets share it,
    as does a model of this category alone. `progress` is called while features are extracted.
    Raises UserError where they cannot be written.
    """
    if not isinstance(backbone, Backbone) or not backbone.kept or not len(images):
        return None
    whole, places = images.origin
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(whole.records):
        groups.setdefault(record.category, []).append(index)
    kept = KeptFeatures(backbone, device, len(images))
    for category in sorted({record.category for record in images.records}):
        there = groups[category]
        row = {index: row for row, index in enumerate(there)}
        mine = [i for i, record in enumerate(images.records) if record.category == category]
        rows = [row[places[i]] for i in mine]
        part = whole.subset(there)
        kept.add(_records(backbone, part, kept.length, category, device, progress), mine, rows)
    return kept


def _records(
    backbone: Backbone,
    images: Images,
    length: int,
    category: str,
    device: torch.device,
    progress: Progress | None,
) -> Kept:
    name = backbone.settings.backbone
    key = digest([backbone.key, device.type, images.fingerprint])
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

    return kept_records(f"{name.replace('/', '_')}-{key[:24]}", about, len(images), length, extract)
