"""Connected regions of a mask: the defects that region metrics count."""

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
    """(R, 4) int32: row, start, end (exclusive), region; sorted by row, then column."""
    areas: Array
    """(regions,) int64, pixels."""

    @classmethod
    def of(cls, mask: ArrayLike) -> Regions:
        """Label a mask (h, w), non-zero where defective."""
        array = np.asarray(mask)
        line = (array if array.dtype == np.bool_ else array != 0).ravel()
        ends = kernels.transitions(np.ascontiguousarray(line).view(np.uint8))
        runs = kernels.cut_runs(ends[::2], ends[1::2], array.shape[1])
        return cls(runs, kernels.join_runs(runs))

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
        lengths = self.runs[:, 2] - self.runs[:, 1]
        return np.repeat(self.weights[self.runs[:, 3]], lengths)


NONE = Regions(np.empty((0, 4), np.int32), np.empty(0, np.int64))
"""The regions of a normal image."""
