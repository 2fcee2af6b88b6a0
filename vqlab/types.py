"""Types shared by all packages of vqlab: image records, batches, pyramids, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from vqlab.errors import UserError as UserError

if TYPE_CHECKING:
    from vqlab.pixels.resizing import Geometry

Pyramid: TypeAlias = tuple[Tensor, ...]
"""Multi-scale features: L tensors (B, C_l, h_l, w_l), finest first; an image is one level."""


class Sample:
    """B images and their features: the input of a detector."""

    def __init__(self, image: Tensor | Callable[[], Tensor], pyramid: Pyramid) -> None:
        """image: (B, 3, H, W), or a function that loads it, called when `image` is first read."""
        self._image = image
        self.pyramid = pyramid

    @cached_property
    def image(self) -> Tensor:
        """The images (B, 3, H, W), float32 in [0, 1], on the device of the pyramid."""
        return self._image if isinstance(self._image, Tensor) else self._image()

    def __len__(self) -> int:
        return len(self.pyramid[0])


@dataclass(frozen=True)
class InputSpec:
    """Shapes of a detector's input, measured once from the backbone.

    channels: C_l of every level; sizes: (h_l, w_l) of every level; image_size: (H, W) of the
    anomaly maps that `score` returns. Sizes are those of a square image; with `data.resize=aspect`
    images, and so their pyramids and maps, have other shapes.
    """

    channels: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    image_size: tuple[int, int]

    def image_size_of(self, grid: Sequence[int]) -> tuple[int, int]:
        """Return the size (H, W) of an image whose finest level has this size (h, w)."""
        height, width = (
            count * pixels // positions
            for count, pixels, positions in zip(grid, self.image_size, self.sizes[0], strict=True)
        )
        return height, width


@dataclass(frozen=True)
class Scores:
    """anomaly_map (B, H, W) and image_score (B,), float32; higher is more anomalous."""

    anomaly_map: Tensor
    image_score: Tensor


@dataclass(frozen=True)
class ImageRecord:
    """An image of a dataset: its path and ground truth."""

    path: Path
    category: str
    defect: str
    """Defect type, `good` for a normal image."""
    mask: Path | None = None

    @property
    def label(self) -> int:
        """0 normal, 1 anomalous."""
        return int(self.defect != "good")


def indices_by_category(records: Iterable[ImageRecord]) -> dict[str, list[int]]:
    """Return the indices of the records of each category, sorted by category."""
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        groups.setdefault(record.category, []).append(index)
    return dict(sorted(groups.items()))


@dataclass(frozen=True)
class Tile:
    """A square part of an image at the resolution of its tiles (`data.tiles`)."""

    image_size: tuple[int, int]
    """(h, w) of the image at that resolution."""
    top: int
    left: int
    side: int
    overlap: int
    """Minimum overlap with the next tile, in pixels."""
    first: bool
    """Whether it is the first tile of its image."""
    last: bool

    @property
    def window(self) -> tuple[slice, slice]:
        """Return the index of its pixels in the image."""
        bottom, right = self.top + self.side, self.left + self.side
        return slice(self.top, bottom), slice(self.left, right)


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, H, W) float32 in [0, 1]; masks (B, H, W) bool; labels (B,) int64."""

    images: Tensor
    masks: Tensor
    labels: Tensor
    records: tuple[ImageRecord, ...]
    geometry: tuple[Geometry, ...]
    inspected: Tensor | None = None
    """(B, H, W) bool, True on inspected pixels, on the CPU; None: all (`data.roi`)."""
    tiles: tuple[Tile, ...] | None = None
    """If not None, the images are tiles, with records and geometry of the images they belong to."""

    def __len__(self) -> int:
        return len(self.records)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its images on `device`; masks and labels stay on the CPU."""
        return Batch(
            self.images.to(device, non_blocking=True),
            self.masks,
            self.labels,
            self.records,
            self.geometry,
            self.inspected,
            self.tiles,
        )
