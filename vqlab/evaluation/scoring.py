"""One pass over a set of images: scores, alternative scores, panels and prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from vqlab.detectors import (
    Extracted,
    HasAlternatives,
    HasPanels,
    HasPrototypes,
    ImagePrototypes,
    Scorer,
    extract,
    scores,
)
from vqlab.evaluation.spool import Array, Budget, Spool
from vqlab.features import FeatureSet
from vqlab.types import Batch, Geometry, ImageRecord, Scores, UserError, indices_by_category

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Scored:
    """N images with scores and ground truth.

    Maps and masks have the network's resolution, cropped to the box that the image fills.
    """

    maps: list[Array]
    """N anomaly maps (h, w) float32; higher is more anomalous."""
    image_scores: Array
    """(N,) float64; higher is more anomalous."""
    labels: Array
    """(N,) int64: 0 normal, 1 anomalous."""
    masks: list[Array]
    """N masks (h, w) bool, all False for a normal image."""
    records: tuple[ImageRecord, ...]
    geometry: tuple[Geometry, ...]
    inspected: list[Array] | None = None
    """N masks (h, w) bool, True on inspected pixels; None: all (`data.roi`). Other pixels have the
    lowest score of the inspected ones, no label, and do not count in pixel metrics."""

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: Sequence[int]) -> Scored:
        """Return the images at `indices`, in that order."""
        indices = [int(i) for i in indices]
        return Scored(
            maps=[self.maps[i] for i in indices],
            image_scores=self.image_scores[indices],
            labels=self.labels[indices],
            masks=[self.masks[i] for i in indices],
            records=tuple(self.records[i] for i in indices),
            geometry=tuple(self.geometry[i] for i in indices),
            inspected=None if self.inspected is None else [self.inspected[i] for i in indices],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Scored]) -> Scored:
        """Return all images of `parts`, at least one, in order."""
        inspected = [mask for part in parts for mask in part.inspected or ()]
        return cls(
            [map for part in parts for map in part.maps],
            np.concatenate([part.image_scores for part in parts]),
            np.concatenate([part.labels for part in parts]),
            [mask for part in parts for mask in part.masks],
            tuple(record for part in parts for record in part.records),
            tuple(geometry for part in parts for geometry in part.geometry),
            inspected or None,
        )

    def pixels(self, index: int) -> Array:
        """Return the scores (n,) of the inspected pixels of an image."""
        values = self.maps[index]
        return values.ravel() if self.inspected is None else values[self.inspected[index]]

    def normals(self) -> Scored:
        """Return the normal images."""
        return self.take(np.flatnonzero(self.labels == 0).tolist())

    def by_category(self) -> dict[str, list[int]]:
        """Return the indices of the images of each category, sorted by category."""
        return indices_by_category(self.records)


@dataclass(frozen=True)
class Predictions:
    """Results of one pass over N images."""

    scored: Scored
    alternatives: dict[str, Scored] = field(default_factory=dict)
    """The images with the detector's other scores, by name."""
    panels: dict[str, list[Array]] = field(default_factory=dict)
    """By title, N pictures (S, S, 3) uint8 or code maps (h, w) int32, padding included."""
    prototypes: ImagePrototypes | None = None
    """Of all N images, on the CPU."""

    def take(self, indices: Sequence[int]) -> Predictions:
        """Return the predictions of the images at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        prototypes = self.prototypes
        if prototypes is not None:
            vectors, codes = prototypes.vectors[chosen], prototypes.indices[chosen]
            prototypes = ImagePrototypes(codes, vectors, prototypes.codebook)
        return Predictions(
            self.scored.take(chosen),
            {name: scored.take(chosen) for name, scored in self.alternatives.items()},
            {title: [each[i] for i in chosen] for title, each in self.panels.items()},
            prototypes,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """Return the predictions of all images of `parts`, at least one, in order."""
        first = parts[0]
        return cls(
            Scored.concatenate([part.scored for part in parts]),
            {
                name: Scored.concatenate([part.alternatives[name] for part in parts])
                for name in first.alternatives
            },
            {
                title: [picture for part in parts for picture in part.panels[title]]
                for title in first.panels
            },
            concatenate_prototypes([p.prototypes for p in parts if p.prototypes is not None]),
        )


@dataclass(frozen=True)
class ExtractedSet:
    """Extracted outputs of N images with their ground truth."""

    extracted: list[Extracted]
    truth: Scored
    """Without maps and scores."""
    shape: tuple[int, ...]
    """(H, W) of the network's input."""


class _Truth:
    """Collects the ground truth of a set of images, batch by batch."""

    def __init__(self) -> None:
        self.masks: list[Array] = []
        self.records: list[ImageRecord] = []
        self.geometry: list[Geometry] = []
        self.inspected: list[Array] = []
        self._empty: dict[tuple[int, ...], Array] = {}
        """Empty masks by shape, which images share."""

    def add(self, batch: Batch) -> None:
        for values, geometry in zip(batch.masks, batch.geometry, strict=True):
            mask = crop(values.numpy(), geometry)
            self.masks.append(mask if mask.any() else self._empty.setdefault(mask.shape, mask))
        self.inspected += inspected_in(batch) or []
        self.records += batch.records
        self.geometry += batch.geometry

    def scored(self, maps: list[Array], image_scores: Sequence[Array]) -> Scored:
        labels = np.array([record.label for record in self.records], dtype=np.int64)
        values = np.concatenate(image_scores) if image_scores else np.empty(0)
        return Scored(
            maps,
            values,
            labels,
            self.masks,
            tuple(self.records),
            tuple(self.geometry),
            self.inspected or None,
        )


class _Maps:
    """Collects the anomaly maps and image scores of a set of images, batch by batch."""

    def __init__(self, budget: Budget) -> None:
        self.maps, self.image_scores = Spool(budget), list[Array]()

    def add(self, result: Scores, batch: Batch) -> None:
        maps, image_scores = _checked(result, batch.records, tuple(batch.masks.shape))
        self.image_scores.append(image_scores)
        inspected = inspected_in(batch)
        for place, (values, geometry) in enumerate(zip(maps, batch.geometry, strict=True)):
            map = crop(values, geometry)
            self.maps.add(map if inspected is None else lowest_outside(map, inspected[place]))


@torch.inference_mode()
def extract_images(detector: Scorer, features: FeatureSet) -> ExtractedSet:
    """Extract every image of a set, one at a time."""
    features = FeatureSet(features.images, features.backbone, features.device, batch_size=1)
    truth, extracted = _Truth(), list[Extracted]()
    shape: tuple[int, ...] = ()
    for batch, sample in features.with_batches():
        extracted.append(extract(detector, sample))
        shape = tuple(batch.masks.shape[1:])
        truth.add(batch)
    return ExtractedSet(extracted, truth.scored([], []), shape)


@torch.inference_mode()
def score_extracted(detector: Scorer, images: ExtractedSet) -> Scored:
    """Score extracted outputs by the detector's current settings. Raises as `predict_images`."""
    maps, values = Spool(), list[Array]()
    truth = images.truth
    for number, extracted in enumerate(images.extracted):
        record = truth.records[number : number + 1]
        map, value = _checked(scores(detector, extracted), record, (1, *images.shape))
        values.append(value)
        cropped = crop(map[0], truth.geometry[number])
        if truth.inspected is not None:
            cropped = lowest_outside(cropped, truth.inspected[number])
        maps.add(cropped)
    return replace(truth, maps=maps.arrays(), image_scores=np.concatenate(values))


def score_images(
    detector: Scorer, features: FeatureSet, progress: Progress | None = None
) -> Scored:
    """Score every image of a set. Raises as `predict_images`."""
    return predict_images(detector, features, progress).scored


@torch.inference_mode()
def predict_images(
    detector: Scorer,
    features: FeatureSet,
    progress: Progress | None = None,
    *,
    alternatives: bool = False,
    panels: bool = False,
    budget: Budget | None = None,
) -> Predictions:
    """Run a detector once over a set of images, batch by batch, and derive all results from that.

    alternatives, panels: also compute these if the detector offers them. budget: of the memory for
    maps, if several sets share it. Raises UserError that names the first image with a score that is
    not finite, and ValueError for maps or scores of a wrong shape.
    """
    truth, budget = _Truth(), budget or Budget()
    main, others = _Maps(budget), dict[str, _Maps]()
    pictures: dict[str, Spool] = {}
    prototypes: list[ImagePrototypes] = []
    for batch, sample in features.with_batches(progress):
        extracted = extract(detector, sample)
        truth.add(batch)
        main.add(scores(detector, extracted), batch)
        if alternatives and isinstance(detector, HasAlternatives):
            for name, result in detector.alternatives(extracted).items():
                others.setdefault(name, _Maps(budget)).add(result, batch)
        if panels and isinstance(detector, HasPanels):
            for title, panel in detector.panels(extracted).items():
                spool = pictures.setdefault(title, Spool(budget))
                for picture in panel_arrays(panel):
                    spool.add(picture)
        if isinstance(detector, HasPrototypes):
            part = detector.prototypes(extracted)
            prototypes += [] if part is None else [part]
        if progress is not None:
            progress(len(truth.records), len(features))
    return Predictions(
        truth.scored(main.maps.arrays(), main.image_scores),
        {name: truth.scored(o.maps.arrays(), o.image_scores) for name, o in others.items()},
        {title: spool.arrays() for title, spool in pictures.items()},
        concatenate_prototypes(prototypes),
    )


def concatenate_prototypes(parts: Sequence[ImagePrototypes]) -> ImagePrototypes | None:
    """Concatenate the prototypes of batches, on the CPU; None without batches."""
    if not parts:
        return None
    indices = torch.cat([part.indices for part in parts]).cpu()
    vectors = torch.cat([part.vectors for part in parts]).cpu()
    return ImagePrototypes(indices, vectors, parts[0].codebook.cpu())


def panel_arrays(panel: Tensor) -> Array:
    """Convert (B, 3, h, w) in [0, 1] to (B, h, w, 3) uint8, and codes (B, h, w) to int32."""
    if panel.ndim == 3:
        return panel.int().cpu().numpy()
    pixels = (panel.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _checked(
    result: Scores, records: Sequence[ImageRecord], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return maps (B, H, W) float32 and image scores (B,) float64 of a batch; all finite."""
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
            f"the scores of image {records[int(np.argmin(finite))].path} must be finite numbers; "
            "got NaN or infinity: the training diverged; lower training.learning_rate."
        )
    return maps, values


def inspected_in(batch: Batch) -> list[Array] | None:
    """Return the inspected pixels (h, w) of each image, cropped to its box; None: all."""
    if batch.inspected is None:
        return None
    pairs = zip(batch.inspected, batch.geometry, strict=True)
    return [crop(mask.numpy(), geometry) for mask, geometry in pairs]


def lowest_outside(map: Array, inspected: Array) -> Array:
    """Return the map (h, w) with the lowest inspected score on pixels that are not inspected."""
    return np.where(inspected, map, map[inspected].min())


def crop(map: Array, geometry: Geometry) -> Array:
    """Crop a map (S, S) to the box (h, w) of the image: remove the padding of a letterbox."""
    top, left, height, width = geometry.box
    return np.ascontiguousarray(map[top : top + height, left : left + width])


def crop_panel(panel: Array, geometry: Geometry, side: int) -> Array:
    """Crop a panel (h, w, ...) to the box of the image; side: of the square of the box."""
    top, left, height, width = (length / side for length in geometry.box)
    rows, columns = panel.shape[:2]
    return panel[
        round(top * rows) : max(round((top + height) * rows), round(top * rows) + 1),
        round(left * columns) : max(round((left + width) * columns), round(left * columns) + 1),
    ]
