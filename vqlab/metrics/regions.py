"""The regions of a mask: what a defect is to the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics import kernels
from vqlab.metrics.groups import Array


@dataclass(frozen=True)
class Regions:
    """The 8-connected regions of a mask (h, w)."""

    runs: Array
    """(R, 4) int32: row, start, end (not included), region; in the order of rows, then columns."""
    areas: Array
    """(regions,) int64, pixels."""

    @classmethod
    def of(cls, mask: ArrayLike) -> Regions:
        """mask (h, w), non-zero where defective."""
        array = np.asarray(mask)
        line = (array if array.dtype == np.bool_ else array != 0).ravel()
        ends = kernels.turns(np.ascontiguousarray(line).view(np.uint8))
        runs = kernels.cut_runs(ends[::2], ends[1::2], array.shape[1])
        return cls(runs, kernels.join_runs(runs))

    @property
    def count(self) -> int:
        return len(self.areas)

    @cached_property
    def pixels(self) -> int:
        """In all regions together."""
        return int(self.areas.sum())

    @cached_property
    def weights(self) -> Array:
        """(regions,) what a pixel counts so that every region counts alike: 1 / area."""
        return 1.0 / self.areas

    def pixel_weights(self) -> Array:
        """(pixels,) the weight of every defective pixel, row by row."""
        lengths = self.runs[:, 2] - self.runs[:, 1]
        return np.repeat(self.weights[self.runs[:, 3]], lengths)


NONE = Regions(np.empty((0, 4), np.int32), np.empty(0, np.int64))
"""Of a normal image."""
