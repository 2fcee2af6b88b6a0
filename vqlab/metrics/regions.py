"""Connected regions of a mask: the defects that region metrics count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.groups import Array


@dataclass(frozen=True)
class Regions:
    """The 8-connected regions of a mask, labelled in their bounding box."""

    labels: Array
    """(h, w) int32 of the box: 0 where normal, else the number of the region, from 1."""
    areas: Array
    """(regions,) int64, pixels."""
    top: int = 0
    left: int = 0

    @classmethod
    def of(cls, mask: ArrayLike) -> Regions:
        """Label a mask (h, w), non-zero where defective."""
        array = np.asarray(mask) != 0
        rows, columns = np.flatnonzero(array.any(axis=1)), np.flatnonzero(array.any(axis=0))
        if not len(rows):
            return NONE
        box = array[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        from scipy import ndimage  # slow to import

        labels, _ = ndimage.label(box, np.ones((3, 3)))
        return cls(labels, np.bincount(labels.ravel())[1:], int(rows[0]), int(columns[0]))

    @property
    def count(self) -> int:
        return len(self.areas)

    @cached_property
    def pixels(self) -> int:
        """Number of defective pixels."""
        return int(self.areas.sum())

    @cached_property
    def weights(self) -> Array:
        """(regions,) weight of a pixel, 1 / area, so that every region counts alike."""
        return 1.0 / self.areas

    def pixel_weights(self) -> Array:
        """(pixels,) the weight of every defective pixel, row by row."""
        weights: Array = self.weights[self.labels[self.labels > 0] - 1]
        return weights

    def selected(self, pixels: Array) -> Regions:
        """Return the regions of the selected pixels (H, W) bool, which include all defective ones,
        in one row."""
        if not self.count:
            return self
        height, width = self.labels.shape
        labels = np.zeros(pixels.shape, np.int32)
        labels[self.top : self.top + height, self.left : self.left + width] = self.labels
        return Regions(labels[pixels][None], self.areas)

    def inside(self, array: Array) -> Array:
        """Return the values (pixels,) of an array (H, W) in the regions, row by row."""
        height, width = self.labels.shape
        box = array[self.top : self.top + height, self.left : self.left + width]
        values: Array = box[self.labels > 0]
        return values


@dataclass(frozen=True)
class Defect:
    """A defect with its own mask, of which marking a part is sufficient."""

    mask: Array
    """(h, w) bool, with True; may overlap other defects."""
    saturation: float
    """Share of the mask that is sufficient, in (0, 1]."""


def saturated_weights(values: Array, defects: Sequence[Defect]) -> Array:
    """Return weights (h, w) of the pixels of an anomaly map (h, w): their sum over the pixels above
    any threshold is the sum over the defects of min(marked pixels / saturation area, 1).

    Of a defect, the pixels with the highest scores weigh 1 / saturation area each until they fill
    it; the others weigh 0.
    """
    weights = np.zeros(values.shape)
    for defect in defects:
        marked = np.flatnonzero(defect.mask)
        area = max(1.0, defect.saturation * len(marked))
        descending = marked[np.argsort(-values.ravel()[marked], kind="stable")]
        steps = np.clip(area - np.arange(len(marked)), 0, 1) / area
        weights.ravel()[descending] += steps
    return weights


NONE = Regions(np.zeros((0, 0), np.int32), np.empty(0, np.int64))
"""The regions of a normal image."""
