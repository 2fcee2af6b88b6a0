"""Defective pixels per bin, counted many at a time.

They are few and lie in bins far apart. Counted one map after the other they would push the normal
pixels' counts out of the processor's cache, map after map; so they wait.
"""

from __future__ import annotations

import numpy as np

from vqlab.metrics import kernels
from vqlab.metrics.groups import Array

_WAITING = 1 << 17
"""Pixels that wait, unless one map has more."""


class Defects:
    """How many defective pixels each bin holds, and the share of their regions' areas."""

    def __init__(self) -> None:
        self.held = 0
        """Bins that hold any, of those in the table."""
        self._places, self._weights = np.empty(0, np.int32), np.empty(0)
        self._count = 0
        """Pixels that wait."""
        self._first = 0
        """The bin of the table's first row."""
        self._table = np.zeros((0, 2))
        """float64, in which pixels up to 2^53 are exact."""

    def room(self, pixels: int) -> tuple[Array, Array]:
        """Where to write the bins (pixels,) int32 and weights (pixels,) of a map's pixels."""
        if self._count + pixels > len(self._places):
            self._settle()
            if pixels > len(self._places):
                size = max(pixels, _WAITING)
                self._places, self._weights = np.empty(size, np.int32), np.empty(size)
        own = slice(self._count, self._count + pixels)
        self._count += pixels
        return self._places[own], self._weights[own]

    def give_back(self, pixels: int) -> None:
        """Forget the last map's pixels."""
        self._count -= pixels

    def put(self, place: int, pixels: int, regions: int) -> None:
        """Count a map that is one region and lies in one bin."""
        self._widen(place, place)
        row = self._table[place - self._first]
        self.held += int(pixels > 0 and row[0] == 0)
        row += pixels, regions

    def table(self, first: int, last: int) -> Array:
        """(last + 1 - first, 2): pixels, and the sum of their weights, of these bins; no other bin
        may hold any."""
        self._settle()
        self._widen(first, last)
        return self._table[first - self._first : last + 1 - self._first]

    def _settle(self) -> None:
        if self._count:
            places, weights = self._places[: self._count], self._weights[: self._count]
            self._widen(int(places.min()), int(places.max()))
            self.held += kernels.weigh(places, weights, self._first, self._table)
            self._count = 0

    def _widen(self, first: int, last: int) -> None:
        """Have a row for each of these bins."""
        end = self._first + len(self._table)
        if not len(self._table):
            self._first, self._table = first, np.zeros((last + 1 - first, 2))
        elif first < self._first or last >= end:
            before, after = max(self._first - first, 0), max(last + 1 - end, 0)
            self._table = np.pad(self._table, ((before, after), (0, 0)))
            self._first -= before
