"""Scores of a set of images with ground truth; maps and masks have no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vqlab.detectors import Extracted, ImagePrototypes
from vqlab.evaluation.spool import Array
from vqlab.pixels.resizing import Geometry
from vqlab.types import ImageRecord, Tile, indices_by_category


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
    """The same images with the detector's alternative scores, by name."""
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
    shapes: list[tuple[int, ...]]
    """(H, W) of each network input."""
    tiles: tuple[Tile, ...] = ()
    """If not empty, `extracted` has the outputs of these tiles, in order."""


def concatenate_prototypes(parts: Sequence[ImagePrototypes]) -> ImagePrototypes | None:
    """Concatenate the prototypes of batches, on the CPU; None without batches."""
    if not parts:
        return None
    indices = torch.cat([part.indices for part in parts]).cpu()
    vectors = torch.cat([part.vectors for part in parts]).cpu()
    return ImagePrototypes(indices, vectors, parts[0].codebook.cpu())


def crop(map: Array, geometry: Geometry) -> Array:
    """Crop a map (S, S) to the box (h, w) of the image: remove the padding of a letterbox."""
    return np.ascontiguousarray(map[geometry.window])


def crop_panel(panel: Array, geometry: Geometry, frame: tuple[int, int]) -> Array:
    """Crop a panel (h, w, ...) to the box of the image; frame: (H, W) of the network input."""
    top, left, height, width = geometry.box
    rows, columns = (count / size for count, size in zip(panel.shape, frame, strict=False))
    return panel[
        round(top * rows) : max(round((top + height) * rows), round(top * rows) + 1),
        round(left * columns) : max(round((left + width) * columns), round(left * columns) + 1),
    ]
