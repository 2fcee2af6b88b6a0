"""Counts of defective pixels per bin, added in batches.

Defective pixels are few and their bins far apart. Counting each map's at once would evict the
counts of normal pixels from the cache, so they are buffered.
"""

from __future__ import annotations

import numpy as np

from vqlab.metrics import kernels
from vqlab.metrics.groups import Array

_BUFFER = 1 << 17
"""Pixels in the buffer, unless one map has more."""


class DefectCounts:
    """Defective pixels of each bin, and the sum of their region weights."""

    def __init__(self) -> None:
        self.occupied = 0
        """Number of bins in the table that hold a pixel."""
        self._places, self._weights = np.empty(0, np.int32), np.empty(0)
        self._count = 0
        """Pixels in the buffer."""
        self._first = 0
        """Bin of the table's first row."""
        self._table = np.zeros((0, 2))
        """float64: exact up to 2^53 pixels."""

    def reserve(self, pixels: int) -> tuple[Array, Array]:
        """Return buffers for the bins (pixels,) int32 and weights (pixels,) of a map's pixels."""
        if self._count + pixels > len(self._places):
            self._flush()
            if pixels > len(self._places):
                size = max(pixels, _BUFFER)
                self._places, self._weights = np.empty(size, np.int32), np.empty(size)
        span = slice(self._count, self._count + pixels)
        self._count += pixels
        return self._places[span], self._weights[span]

    def release(self, pixels: int) -> None:
        """Drop the last map's pixels."""
        self._count -= pixels

    def add(self, place: int, pixels: int, regions: int) -> None:
        """Count a map whose pixels lie in one bin."""
        self._widen(place, place)
        row = self._table[place - self._first]
        self.occupied += int(pixels > 0 and row[0] == 0)
        row += pixels, regions

    def table(self, first: int, last: int) -> Array:
        """Return pixels and weights (last + 1 - first, 2) of these bins, which hold all pixels."""
        self._flush()
        self._widen(first, last)
        return self._table[first - self._first : last + 1 - self._first]

    def _flush(self) -> None:
        if self._count:
            places, weights = self._places[: self._count], self._weights[: self._count]
            self._widen(int(places.min()), int(places.max()))
            self.occupied += kernels.weigh(places, weights, self._first, self._table)
            self._count = 0

    def _widen(self, first: int, last: int) -> None:
        """Extend the table to these bins."""
        end = self._first + len(self._table)
        if not len(self._table):
            self._first, self._table = first, np.zeros((last + 1 - first, 2))
        elif first < self._first or last >= end:
            before, after = max(self._first - first, 0), max(last + 1 - end, 0)
            self._table = np.pad(self._table, ((before, after), (0, 0)))
            self._first -= before
