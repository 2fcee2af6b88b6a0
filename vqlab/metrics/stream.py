"""Pixel metrics in one pass over batches of anomaly maps, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics import kernels
from vqlab.metrics.catalogue import ThresholdCounts
from vqlab.metrics.defects import DefectCounts
from vqlab.metrics.groups import Array, Groups
from vqlab.metrics.regions import NONE, Regions
from vqlab.metrics.summary import Summary, summarise

_SAMPLE = 1 << 16
"""Pixels that the bins are fitted to."""
_FEW = 0.1
"""Share of distinct values in a sample below which ties are tracked."""


@dataclass(frozen=True)
class Bins:
    """Bins of scores, see `vqlab.metrics.kernels`."""

    centre: Any
    per_scale: Any
    ties: bool
    """Track the extremes of every bin, so that a bin of equal scores counts as a tie."""

    @classmethod
    def fitted(cls, values: Array) -> Bins | None:
        """Fit bins to values (n,); None if these are all equal.

        The scale is an eighth of the interquartile range, or if that is 0, of the mean distance
        from the median. The centre, where bins are narrowest, is the upper decile: average
        precision and AUPRO depend on the scores above it. For scores with a long upper tail it is
        the median, since bins as wide as a share of that tail would merge the others.
        """
        sample = np.sort(values[:: max(1, len(values) // _SAMPLE)])
        rank = (len(sample) - 1) * np.array([0.1, 0.25, 0.5, 0.75, 0.9])
        decile, low, centre, high, top = sample[np.round(rank).astype(int)].astype(np.float64)
        spread = high - low or float(np.abs(values.astype(np.float64) - centre).mean())
        if not spread > 0:
            return None
        centre = top if top - centre <= 2 * (centre - decile) else centre
        ties = int(np.count_nonzero(np.diff(sample))) + 1 < _FEW * len(sample)
        kind = values.dtype.type
        largest = float(np.finfo(kind).max)
        return cls(kind(centre), kind(min(8 / spread, largest / 4)), ties)

    def places(self, values: Array) -> Array:
        """Return the bins (n,) int32 of values (n,)."""
        places = np.empty(len(values), np.int32)
        kernels.places_of(values, self.centre, self.per_scale, places)
        return places

    def edge(self, place: int) -> float:
        """Return the least value of a bin."""
        largest = np.finfo(type(self.centre)).max
        return float(
            kernels.least_of(place, self.centre, self.per_scale, -largest, largest),
        )


@dataclass(frozen=True)
class Histogram:
    """A coarse histogram of one image's pixels, for the bootstrap (`vqlab.metrics.bootstrap`)."""

    negatives: Array
    """(2·COARSE_SIDE,) float32, highest scores first."""
    positives: Array | None = None
    overlap: Array | None = None
    """Share in the regions' areas; sums to the number of regions. Both None for a normal image."""


class PixelStream:
    """Pixel metrics of any number of maps, in memory that does not grow with them.

    Scores may have any sign and scale: the bins are fitted to the first map that is not constant.
    `Summary.bounds` gives a strict bound on the distance of each metric from that of the unbinned
    scores.
    """

    def __init__(self, *, threshold: float | None = None, keep_images: bool = False) -> None:
        """threshold: also count the pixels above it, in `at`. keep_images: also keep a coarse
        histogram per image, in `images` (7 KiB; 21 KiB if it is defective)."""
        self.bins: Bins | None = None
        self.threshold = threshold
        self.at = ThresholdCounts()
        self.images: list[Histogram] = []
        self._keep = keep_images
        self.seen = 0
        """Number of maps."""
        self._constant: list[tuple[Array, int, int, int]] = []
        """Maps before the bins were fitted: value (1,), normal and defective pixels, regions."""
        size = 2 * kernels.SIDE + 1  # the last is unused
        self._counts, self._carries = np.zeros(size, np.uint16), np.zeros(size, np.int32)
        """Normal pixels: the low 16 bits and the high ones."""
        self._defects = DefectCounts()
        self._span = np.array([size, -1], np.int32)
        """The lowest and the highest bin in use."""
        self._low = self._high = np.zeros(0)

    def update(
        self, maps: Sequence[ArrayLike] | Array, masks: Sequence[ArrayLike] | Array | None = None
    ) -> PixelStream:
        """Count anomaly maps (h_i, w_i) with masks (h_i, w_i), non-zero where defective.

        Both may be arrays (B, h, w); no masks: all normal. Raises ValueError for shapes or counts
        that disagree and for a map with NaN or infinity, naming its index in the stream; the maps
        before it are counted.
        """
        if masks is not None and len(maps) != len(masks):
            raise ValueError(f"there must be one mask per map; got {len(maps)} and {len(masks)}.")
        for place, values in enumerate(maps):
            self._add(_as_floats(values), None if masks is None else np.asarray(masks[place]))
        return self

    def compute(self) -> Summary:
        """Return the ranking metrics with their bounds, and curves `roc`, `precision_recall`,
        `pro`; empty without a defective or without a normal pixel."""
        self._fit_to_constants()
        if self.bins is None:
            return Summary()
        first, last = int(self._span[0]), int(self._span[1]) + 1
        used = slice(first, last)
        tied = self._low[used] == self._high[used]
        defects = self._defects.table(first, last - 1)
        *counts, places = kernels.gather(
            self._counts[used], self._carries[used], defects, self._defects.occupied, tied
        )
        return summarise("pixel", Groups(*counts), lambda i: self._lowest(first + int(places[i])))

    def _lowest(self, place: int) -> float:
        if len(self._low):
            return float(self._low[place])
        assert self.bins is not None
        return self.bins.edge(place)

    def _add(self, values: Array, mask: Array | None) -> None:
        if values.ndim != 2 or (mask is not None and values.shape != mask.shape):
            raise ValueError(
                "a map and its mask must be of one shape (h, w); got map "
                f"{values.shape} and mask {mask.shape if mask is not None else 'none'} "
                f"at index {self.seen}."
            )
        regions = NONE if mask is None else Regions.of(mask)
        if self.bins is None:
            _require_finite(values, self.seen)
            self.bins = Bins.fitted(values.ravel())
            if self.bins is not None:
                self._open()
        if self.bins is None:
            value, pixels = values.ravel()[:1], regions.pixels
            self._constant.append((value, values.size - pixels, pixels, regions.count))
            if self.threshold is not None and value[0] > self.threshold:
                self._count_flagged(values.size, values.size, pixels, regions.count, regions)
            else:
                self._count_flagged(values.size, 0, 0, 0.0, regions)
        else:
            self._count(values.astype(type(self.bins.centre), copy=False), mask, regions)
        self.seen += 1

    def _count(self, values: Array, mask: Array | None, regions: Regions) -> None:
        assert self.bins is not None
        where, counts = (self.bins.centre, self.bins.per_scale), (self._counts, self._carries)
        threshold = type(self.bins.centre)(np.inf if self.threshold is None else self.threshold)
        coarse = np.zeros((3, 2 * kernels.COARSE_SIDE if self._keep else 0))
        bad, above, hits, overlap = kernels.count(
            values, (regions.runs, regions.weights), where, threshold, (*counts, self._span),
            self._defects.reserve(regions.pixels), coarse,
        )  # fmt: skip
        if bad:
            normal = values.ravel() if mask is None else values[mask == 0]
            kernels.uncount(normal, *where, *counts)
            self._defects.release(regions.pixels)
            raise _not_finite(bad, self.seen)
        self._count_flagged(values.size, above, hits, overlap, regions)
        if self.bins.ties:
            kernels.extend(values.ravel(), *where, self._low, self._high)
        if self._keep:
            parts = coarse[: 3 if regions.count else 1, ::-1].astype(np.float32)
            self.images.append(Histogram(*parts))

    def _count_flagged(
        self, size: int, above: int, hits: int, overlap: float, regions: Regions
    ) -> None:
        """Add a map of which `above` pixels are flagged, `hits` of them defective."""
        if self.threshold is None:
            return
        at = self.at
        at.true_positives += hits
        at.false_positives += above - hits
        at.false_negatives += regions.pixels - hits
        at.true_negatives += size - above - (regions.pixels - hits)
        at.overlap += overlap
        at.regions += regions.count

    def _fit_to_constants(self) -> None:
        """Fit the bins if every map so far was constant."""
        if self.bins is None and self._constant:
            values = np.concatenate([value for value, *_ in self._constant])
            fitted = Bins.fitted(values) or Bins(values[0], values.dtype.type(1), True)
            self.bins = Bins(fitted.centre, fitted.per_scale, True)
            self._open()

    def _open(self) -> None:
        """Count the constant maps seen before the bins were fitted."""
        assert self.bins is not None
        if self.bins.ties:
            kind = type(self.bins.centre)
            self._low = np.full(len(self._counts), np.inf, kind)
            self._high = np.full(len(self._counts), -np.inf, kind)
        for value, normal, defective, regions in self._constant:
            value = value.astype(type(self.bins.centre))
            place = int(self.bins.places(value)[0])
            total = int(self._counts[place]) + normal
            self._counts[place] = total & 0xFFFF
            self._carries[place] += total >> 16
            self._defects.add(place, defective, regions)
            self._span[:] = min(self._span[0], place), max(self._span[1], place)
            if self.bins.ties:
                kernels.extend(value, self.bins.centre, self.bins.per_scale, self._low, self._high)
            if self._keep:
                self.images.append(_constant_image(place, normal, defective, regions))
        self._constant.clear()


def _constant_image(place: int, normal: int, defective: int, regions: int) -> Histogram:
    parts = np.zeros((3, 2 * kernels.COARSE_SIDE), np.float32)
    parts[:, -1 - (place >> (kernels.BITS - kernels.COARSE_BITS))] = normal, defective, regions
    return Histogram(*parts) if defective else Histogram(parts[0])


def _as_floats(values: ArrayLike) -> Array:
    """Convert to contiguous float64 (float64 and wide integers) or float32."""
    array = np.asarray(values)
    if array.dtype == np.float32:
        return np.ascontiguousarray(array)
    wide = np.result_type(array.dtype, np.float32) == np.float64
    return np.ascontiguousarray(array, np.float64 if wide else np.float32)


def _require_finite(values: Array, place: int) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise _not_finite(bad, place)


def _not_finite(bad: int, place: int) -> ValueError:
    return ValueError(f"maps must be finite; got {bad} NaN or infinite at index {place}.")
