"""Scores of a set of images, with their truth."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqlab.data import ImageSet
from vqlab.detectors import Extracted, Scorer, extract, scores
from vqlab.features import kept_features
from vqlab.types import Geometry, Pyramid, Sample, Scores, UserError

Array = NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""
_IN_MEMORY = 1 << 30
"""Bytes of anomaly maps kept in memory: 4,096 of 256 px. What goes beyond waits in a file."""


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


class _Maps:
    """Anomaly maps in the order given; beyond `_IN_MEMORY` bytes in a file without a name, which
    the system deletes when the last map of it is gone."""

    def __init__(self) -> None:
        self._kept: list[Array] = []
        self._bytes = 0
        self._shapes: list[tuple[int, ...]] = []
        """Of the maps in the file."""
        self._file: IO[bytes] | None = None

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, values: Array) -> None:
        """Raises UserError where the folder for temporary files is full."""
        self._bytes += values.nbytes
        if self._bytes <= _IN_MEMORY:
            self._kept.append(values)
            return
        self._shapes.append(values.shape)
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="vqlab-maps-")
            self._file.write(values.tobytes())
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"the folder for temporary files must hold the anomaly maps; got {error.strerror} "
                f"in {tempfile.gettempdir()}; free it, or name another by the variable TMPDIR."
            ) from error

    def all(self) -> list[Array]:
        """Those of the file are read when they are looked at."""
        if self._file is None:
            return self._kept
        line = np.asarray(np.memmap(self._file, np.float32, "c"))
        ends = np.cumsum([height * width for height, width in self._shapes])
        pieces = zip(np.split(line, ends[:-1]), self._shapes, strict=True)
        return self._kept + [piece.reshape(shape) for piece, shape in pieces]


@dataclass(frozen=True)
class ExtractedSet:
    """Extracted outputs of N images with their ground truth: everything that scoring needs."""

    extracted: list[Extracted]
    truth: Scored
    """Without maps and scores."""
    shape: tuple[int, ...]
    """Of the network's images, (H, W)."""


@torch.inference_mode()
def extract_images(
    detector: Scorer, backbone: Callable[[Tensor], Pyramid], images: ImageSet, device: torch.device
) -> ExtractedSet:
    """Extract every image of a set, one at a time, as `score_images` with batches of 1 does."""
    nothing = dict[tuple[int, ...], Array]()
    extracted: list[Extracted] = []
    masks: list[Array] = []
    samples: list[Sample] = []
    geometry: list[Geometry] = []
    shape: tuple[int, ...] = ()
    kept = kept_features(backbone, images, device)
    for number, batch in enumerate(images.batches(1)):
        pyramid = backbone(batch.images.to(device)) if kept is None else kept([number])
        extracted.append(extract(detector, pyramid))
        shape = tuple(batch.masks.shape[1:])
        mask = crop(batch.masks[0].numpy(), batch.geometry[0])
        masks.append(mask if mask.any() else nothing.setdefault(mask.shape, mask))
        samples += batch.samples
        geometry += batch.geometry
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    truth = Scored([], np.empty(0), labels, masks, tuple(samples), tuple(geometry))
    return ExtractedSet(extracted, truth, shape)


@torch.inference_mode()
def score_extracted(detector: Scorer, images: ExtractedSet) -> Scored:
    """Score extracted outputs by the detector's present settings. Raises as `score_images`."""
    maps, values = _Maps(), list[Array]()
    truth = images.truth
    for number, extracted in enumerate(images.extracted):
        sample = truth.samples[number : number + 1]
        whole, value = _checked(scores(detector, extracted), sample, (1, *images.shape))
        values.append(value)
        maps.add(crop(whole[0], truth.geometry[number]))
    return replace(truth, maps=maps.all(), image_scores=np.concatenate(values))


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
    maps, nothing = _Maps(), dict[tuple[int, ...], Array]()
    masks: list[Array] = []
    values: list[Array] = []
    samples: list[Sample] = []
    geometry: list[Geometry] = []
    kept = kept_features(backbone, images, device, progress)
    for batch in images.batches(batch_size):
        if kept is None:
            pyramid = backbone(batch.images.to(device))
        else:
            pyramid = kept(range(len(samples), len(samples) + len(batch)))
        whole, value = _checked(detector.score(pyramid), batch.samples, tuple(batch.masks.shape))
        values.append(value)
        for i, own in enumerate(batch.geometry):
            maps.add(crop(whole[i], own))
            mask = crop(batch.masks[i].numpy(), own)
            masks.append(mask if mask.any() else nothing.setdefault(mask.shape, mask))
        samples += batch.samples
        geometry += batch.geometry
        if progress is not None:
            progress(len(samples), len(images))
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    image_scores = np.concatenate(values) if values else np.empty(0)
    return Scored(maps.all(), image_scores, labels, masks, tuple(samples), tuple(geometry))


def _checked(
    result: Scores, samples: Sequence[Sample], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Maps (B, H, W) float32 and image scores (B,) float64 of one batch, all finite."""
    maps = result.anomaly_map.float().cpu().numpy()
    values = result.image_score.double().cpu().numpy()
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
