"""Pixel metrics in one pass: maps come batch by batch, counts in bins stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics import kernels
from vqlab.metrics.groups import Array, Groups
from vqlab.metrics.regions import Regions
from vqlab.metrics.summary import Summary, summarise

_SAMPLE = 1 << 16
"""Pixels that fix the bins."""
_ROOM = 2**31 - 1
"""Pixels that a count of 32 bits has room for."""
_FEW = 0.1
"""Share of distinct values in a sample below which equal scores are kept apart from near ones."""


@dataclass(frozen=True)
class Bins:
    """Where scores are counted, see `vqlab.metrics.kernels`."""

    centre: Any
    per_scale: Any
    ties: bool
    """Keep the extremes of every bin, so that a bin of equal scores is known as a tie."""

    @classmethod
    def fitted(cls, values: Array) -> Bins | None:
        """Bins for scores like `values` (n,); None where these are all equal.

        The scale is an eighth of the middle half's spread, or where half are equal, of the mean
        distance from it. The centre, where bins are narrowest, is the upper decile: average
        precision and AUPRO are decided above it. For scores with a long upper tail it is the
        median, since bins as wide as a share of that tail could not tell the others apart.
        """
        sample = values[:: max(1, len(values) // _SAMPLE)].astype(np.float64)
        decile, low, centre, high, top = np.percentile(sample, (10, 25, 50, 75, 90))
        spread = high - low or float(np.abs(values.astype(np.float64) - centre).mean())
        if not spread > 0:
            return None
        centre = top if top - centre <= 2 * (centre - decile) else centre
        ties = len(np.unique(sample)) < _FEW * len(sample)
        kind = values.dtype.type
        largest = float(np.finfo(kind).max)
        return cls(kind(centre), kind(min(8 / spread, largest / 4)), ties)

    def places(self, values: Array) -> Array:
        """Bins (n,) int32 of values (n,)."""
        places = np.empty(len(values), np.int32)
        kernels.places_of(values, self.centre, self.per_scale, places)
        return places

    def edge(self, place: int) -> float:
        """The least value of a bin, by halving."""
        kind = type(self.centre)
        low, high = kind(np.finfo(kind).min), kind(np.finfo(kind).max)
        while True:
            middle = kind(low / 2 + high / 2)
            if not low < middle < high:
                return float(high)
            if self.places(np.array([middle]))[0] >= place:
                high = middle
            else:
                low = middle


@dataclass
class AtThreshold:
    """Pixels above a threshold."""

    hits: int = 0
    """Defective pixels that are flagged."""
    false: int = 0
    """Normal pixels that are flagged."""
    missed: int = 0
    """Defective pixels that are not."""
    overlap: float = 0.0
    """Σ over the regions of the share that is flagged."""
    regions: int = 0

    def add(self, values: Array, regions: Regions | None, threshold: float) -> None:
        """Count one map (h, w)."""
        above = int(np.count_nonzero(values > threshold))
        if regions is not None:
            hits, overlap = kernels.flagged(values, regions.runs, regions.weights, threshold)
            self.hits += hits
            self.missed += regions.pixels - hits
            self.overlap += overlap
            self.regions += regions.count
            above -= hits
        self.false += above

    def metrics(self) -> dict[str, float]:
        """pixel_iou, pixel_recall, region_overlap, and pixel_precision where anything is flagged;
        empty without a defective pixel."""
        if self.regions == 0:
            return {}
        defective, flagged = self.hits + self.missed, self.hits + self.false
        measured = {
            "pixel_iou": self.hits / (defective + self.false),
            "pixel_recall": self.hits / defective,
            "region_overlap": self.overlap / self.regions,
        }
        return measured | ({"pixel_precision": self.hits / flagged} if flagged else {})


@dataclass(frozen=True)
class Histogram:
    """One image's pixels, coarsely: what resampling images needs (`vqlab.metrics.bootstrap`)."""

    negatives: Array
    """(2·OWN_SIDE,) float32, from the highest scores down."""
    positives: Array | None = None
    overlap: Array | None = None
    """Share of the regions' areas; sums to the number of regions. Both None where all is normal."""


class PixelStream:
    """Pixel metrics of any number of maps, in memory that does not grow with them.

    Scores may be of any sign and scale, no range needs to be known: the first map that is not
    constant fixes the bins. `Summary.bounds` says how far each metric can be from that of the
    unbinned scores; it follows from what the bins hold and is no estimate.
    """

    def __init__(self, *, threshold: float | None = None, keep_images: bool = False) -> None:
        """threshold: also count the pixels above it. keep_images: also keep a coarse histogram per
        image (7 KiB, 21 KiB where it is defective)."""
        self.bins: Bins | None = None
        self.threshold = threshold
        self.at = AtThreshold()
        self.images: list[Histogram] = []
        self._keep = keep_images
        self.seen = 0
        """Maps counted."""
        self._constant: list[tuple[Array, int, int, int]] = []
        """Maps before the bins were fixed: value (1,), normal and defective pixels, regions."""
        size = 2 * kernels.SIDE
        self._negatives = np.zeros(size, np.int32)  # small, so that it stays in the cache
        self._total: Array | int = 0
        self._room = _ROOM
        self._positives, self._overlap = np.zeros(size, np.int64), np.zeros(size)
        self._low = self._high = np.zeros(0)

    def update(
        self, maps: Sequence[ArrayLike] | Array, masks: Sequence[ArrayLike] | Array | None = None
    ) -> PixelStream:
        """Count anomaly maps (h_i, w_i), and masks (h_i, w_i), non-zero where defective.

        Both may be arrays (B, h, w); no masks: all normal. Raises ValueError for shapes or counts
        that disagree and for a map with NaN or infinity, naming its place in the stream; the maps
        before it are counted.
        """
        if masks is not None and len(maps) != len(masks):
            raise ValueError(f"there must be one mask per map; got {len(maps)} and {len(masks)}.")
        for place, values in enumerate(maps):
            self._add(_as_floats(values), None if masks is None else np.asarray(masks[place]))
        return self

    def compute(self) -> Summary:
        """pixel_auroc, pixel_ap, pixel_f1max, aupro, aupro_005, each with its bound, and curves
        `roc`, `precision_recall`, `pro`; empty without a defective pixel or without a normal one.
        """
        self._settle()
        if self.bins is None:
            return Summary()
        negatives = self._total + self._negatives
        held = np.flatnonzero((negatives > 0) | (self._positives > 0))[::-1]
        tied = np.zeros(len(held), np.bool_)
        if len(self._low):
            tied = self._low[held] == self._high[held]
        counts = (self._positives[held], negatives[held], self._overlap[held])
        groups, first = Groups(*counts, tied).compact()
        return summarise("pixel", groups, lambda index: self._lowest(int(held[first[index]])))

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
        regions = None if mask is None or not mask.any() else Regions.of(mask)
        if self.bins is None:
            _require_finite(values, self.seen)
            self.bins = Bins.fitted(values.ravel())
            if self.bins is not None:
                self._open()
        if self.bins is None:
            pixels, count = (regions.pixels, regions.count) if regions else (0, 0)
            self._constant.append((values.ravel()[:1], values.size - pixels, pixels, count))
        else:
            self._count(values.astype(type(self.bins.centre), copy=False), regions)
        if self.threshold is not None:
            self.at.add(values, regions, self.threshold)
        self.seen += 1

    def _count(self, values: Array, regions: Regions | None) -> None:
        assert self.bins is not None
        self._make_room(values.size)
        where = (self.bins.centre, self.bins.per_scale)
        own = np.zeros((3 if regions else 1, 2 * kernels.OWN_SIDE if self._keep else 0))
        bad = kernels.count(values.ravel(), *where, self._negatives, own[0], 1)
        if bad:
            kernels.count(values.ravel(), *where, self._negatives, own[0], -1)
            raise _not_finite(bad, self.seen)
        if regions is not None:
            counts = (self._negatives, self._positives, self._overlap)
            kernels.move(values, regions.runs, regions.weights, *where, *counts, own)
        if self.bins.ties:
            kernels.extend(values.ravel(), *where, self._low, self._high)
        if self._keep:
            self.images.append(Histogram(*own[:, ::-1].astype(np.float32)))

    def _make_room(self, pixels: int) -> None:
        """Move the counts of negatives where there is room for more."""
        self._room -= pixels
        if self._room < 0:
            self._total = self._total + self._negatives.astype(np.int64)
            self._negatives[:] = 0
            self._room = _ROOM - pixels

    def _settle(self) -> None:
        """Fix the bins where every map so far was constant."""
        if self.bins is None and self._constant:
            values = np.concatenate([value for value, *_ in self._constant])
            fitted = Bins.fitted(values) or Bins(values[0], values.dtype.type(1), True)
            self.bins = Bins(fitted.centre, fitted.per_scale, True)
            self._open()

    def _open(self) -> None:
        """Count the constant maps that waited for the bins."""
        assert self.bins is not None
        if self.bins.ties:
            kind = type(self.bins.centre)
            self._low = np.full(len(self._negatives), np.inf, kind)
            self._high = np.full(len(self._negatives), -np.inf, kind)
        for value, normal, defective, regions in self._constant:
            value = value.astype(type(self.bins.centre))
            place = int(self.bins.places(value)[0])
            self._make_room(normal)
            self._negatives[place] += normal
            self._positives[place] += defective
            self._overlap[place] += regions
            if self.bins.ties:
                kernels.extend(value, self.bins.centre, self.bins.per_scale, self._low, self._high)
            if self._keep:
                self.images.append(_constant_image(place, normal, defective, regions))
        self._constant.clear()


def _constant_image(place: int, normal: int, defective: int, regions: int) -> Histogram:
    own = np.zeros((3, 2 * kernels.OWN_SIDE), np.float32)
    own[:, -1 - (place >> (kernels.BITS - kernels.OWN_BITS))] = normal, defective, regions
    return Histogram(*own) if defective else Histogram(own[0])


def _as_floats(values: ArrayLike) -> Array:
    """float64 for float64 and wide integers, else float32; contiguous."""
    array = np.asarray(values)
    wide = np.result_type(array.dtype, np.float32) == np.float64
    return np.ascontiguousarray(array, np.float64 if wide else np.float32)


def _require_finite(values: Array, place: int) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise _not_finite(bad, place)


def _not_finite(bad: int, place: int) -> ValueError:
    return ValueError(f"maps must be finite; got {bad} NaN or infinite at index {place}.")
