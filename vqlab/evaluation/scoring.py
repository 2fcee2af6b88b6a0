"""Scores of a set of images, with their truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqlab.data import ImageSet
from vqlab.types import Geometry, Pyramid, Sample, Scores, UserError

Array = NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Scored:
    """A set of N images with their scores and their truth, in the order of the set.

    Maps and masks are at the network's resolution, cropped to the box that the image fills.
    """

    maps: list[Array]
    """N anomaly maps (h, w) float32; higher is more anomalous."""
    image_scores: Array
    """(N,) float64; higher is more anomalous."""
    labels: Array
    """(N,) int64: 0 normal, 1 defect."""
    masks: list[Array]
    """N masks (h, w) bool, all False for a normal image."""
    samples: tuple[Sample, ...]
    geometry: tuple[Geometry, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, indices: Sequence[int]) -> Scored:
        """The images at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        return Scored(
            maps=[self.maps[i] for i in chosen],
            image_scores=self.image_scores[chosen],
            labels=self.labels[chosen],
            masks=[self.masks[i] for i in chosen],
            samples=tuple(self.samples[i] for i in chosen),
            geometry=tuple(self.geometry[i] for i in chosen),
        )

    def normals(self) -> Scored:
        """The normal images alone."""
        return self.take([int(i) for i in np.flatnonzero(self.labels == 0)])

    def by_category(self) -> dict[str, list[int]]:
        """The indices of every category's images, categories sorted by name."""
        groups: dict[str, list[int]] = {}
        for index, sample in enumerate(self.samples):
            groups.setdefault(sample.category, []).append(index)
        return dict(sorted(groups.items()))


class Scorer(Protocol):
    """Whatever scores pyramids: a detector."""

    def score(self, pyramid: Pyramid) -> Scores: ...


@torch.inference_mode()
def score_images(
    detector: Scorer,
    backbone: Callable[[Tensor], Pyramid],
    images: ImageSet,
    batch_size: int = 16,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Score every image of a set.

    Raises UserError that names the first image whose score is NaN or infinite, ValueError where
    the detector's maps or scores are of another shape than the images.
    """
    device = device or torch.device("cpu")
    maps: list[Array] = []
    masks: list[Array] = []
    values: list[Array] = []
    samples: list[Sample] = []
    geometry: list[Geometry] = []
    for batch in images.batches(batch_size):
        scores = detector.score(backbone(batch.images.to(device)))
        whole, value = _checked(scores, batch.samples, tuple(batch.masks.shape))
        values.append(value)
        for i, own in enumerate(batch.geometry):
            maps.append(crop(whole[i], own))
            masks.append(crop(batch.masks[i].numpy(), own))
        samples += batch.samples
        geometry += batch.geometry
        if progress is not None:
            progress(len(samples), len(images))
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    image_scores = np.concatenate(values) if values else np.empty(0)
    return Scored(maps, image_scores, labels, masks, tuple(samples), tuple(geometry))


def _checked(
    scores: Scores, samples: Sequence[Sample], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Maps (B, H, W) float32 and image scores (B,) float64 of one batch, all finite."""
    maps = scores.anomaly_map.float().cpu().numpy()
    values = scores.image_score.double().cpu().numpy()
    if maps.shape != shape or values.shape != shape[:1]:
        raise ValueError(
            f"anomaly_map must be {shape} and image_score {shape[:1]} like the images; "
            f"got {maps.shape} and {values.shape}."
        )
    finite = np.isfinite(values) & np.isfinite(maps).all(axis=(1, 2))
    if not finite.all():
        raise UserError(
            f"the scores of image {samples[int(np.argmin(finite))].path} must be finite numbers; "
            "got NaN or infinity: the training diverged; lower training.learning_rate."
        )
    return maps, values


def crop(map: Array, geometry: Geometry) -> Array:
    """The part (h, w) of a map (S, S) that the image fills: a letterbox's padding cut off."""
    top, left, height, width = geometry.box
    return np.ascontiguousarray(map[top : top + height, left : left + width])
