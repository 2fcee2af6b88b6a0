"""Pixel metrics in one pass over batches of anomaly maps, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.catalogue import ThresholdCounts
from vqlab.metrics.groups import Array, Groups
from vqlab.metrics.regions import NONE, Defect, Regions, saturated_weights
from vqlab.metrics.summary import Summary, require_equal_count, require_valid, summarise

_SAMPLE = 1 << 16
"""Number of pixels to which the bins are fitted."""
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
        from vqlab.metrics import kernels  # numba is slow to import

        places = np.empty(len(values), np.int32)
        kernels.places_of(values, self.centre, self.per_scale, places)
        return places

    def edge(self, place: int) -> float:
        """Return the least value of a bin, by bisection."""
        kind = type(self.centre)
        high = kind(np.finfo(kind).max)
        low = -high
        while low < (middle := low / 2 + high / 2) < high:
            above = self.places(np.array([middle]))[0] >= place
            low, high = (low, middle) if above else (middle, high)
        return float(high)


class PixelStream:
    """Pixel metrics of any number of maps, in memory that does not grow with them.

    Scores may have any sign and scale: the bins are fitted to the first map that is not constant.
    `Summary.bounds` gives a strict bound on the distance of each metric from that of the unbinned
    scores.
    """

    def __init__(self, *, threshold: float | None = None, keep_images: bool = False) -> None:
        """threshold: also count the pixels above it, in `at`. keep_images: also keep a coarse
        histogram per image, in `images` (12 KiB; 36 KiB if it is defective)."""
        from vqlab.metrics import kernels  # numba is slow to import

        self.bins: Bins | None = None
        self.threshold = threshold
        self.at = ThresholdCounts()
        self.images: list[Array] = []
        """(3, 2·COARSE_SIDE) float32, highest scores first: normal and defective pixels, and their
        share in the regions' areas, which sums to the number of regions; (1, …) if normal."""
        self._keep = keep_images
        self.seen = 0
        """Number of maps."""
        self._constant: list[tuple[Array, int, int, int, float]] = []
        """Maps before the bins were fitted: value (1,), normal and defective pixels, regions,
        saturated overlap."""
        self._normal = np.zeros(2 * kernels.SIDE + 1, np.int64)
        self._defective = np.zeros((2 * kernels.SIDE, 2))
        """See `vqlab.metrics.kernels.count`."""
        self._saturated = np.zeros(0)
        """(2·SIDE,) saturated overlap by bin; empty without saturation areas."""
        self._unsaturated = 0
        """Defective maps without saturation areas."""
        self._span = slice(2 * kernels.SIDE, 0)
        """The bins in use."""
        self._low = self._high = np.zeros(0)
        """Extremes of every bin if ties are tracked."""

    def update(
        self,
        maps: Sequence[ArrayLike] | Array,
        masks: Sequence[ArrayLike] | Array | None = None,
        inspected: Sequence[ArrayLike] | None = None,
        defects: Sequence[Sequence[Defect]] | None = None,
    ) -> PixelStream:
        """Count anomaly maps (h_i, w_i) with masks (h_i, w_i), non-zero where defective.

        Both may be arrays (B, h, w); no masks: all normal. inspected (h_i, w_i): pixels that count,
        which include the defective ones; None: all. defects: of each map, those with a saturation
        area, whose union is its mask; metrics that need them are measured if every defective map
        has some. Raises ValueError for shapes or counts that disagree and for a map with NaN or
        infinity, naming its index in the stream; the maps before it are counted.
        """
        if masks is not None:
            require_equal_count(maps, masks)
        for place, values in enumerate(maps):
            mask = None if masks is None else np.asarray(masks[place])
            counted = None if inspected is None else np.asarray(inspected[place], np.bool_)
            self._add(_as_floats(values), mask, counted, defects[place] if defects else ())
        return self

    def compute(self) -> Summary:
        """Return the ranking metrics with their bounds, and curves `roc`, `precision_recall`,
        `pro`; empty without a defective or without a normal pixel."""
        if self.bins is None and self._constant:  # every map so far was constant
            values = np.concatenate([value for value, *_ in self._constant])
            self._open(Bins.fitted(values) or Bins(values[0], values.dtype.type(1), True), True)
        if self.bins is None:
            return Summary()
        used = self._span
        positives, overlap = self._defective[used].T
        tied = self._low[used] == self._high[used]
        if not len(self._low):
            tied = np.zeros(len(positives), np.bool_)
        complete = len(self._saturated) and not self._unsaturated
        saturated = self._saturated[used] if complete else None
        groups, bins = Groups.of_bins(positives, self._normal[used], overlap, tied, saturated)
        return summarise("pixel", groups, lambda i: self._least(used.start + int(bins[i])))

    def _least(self, place: int) -> float:
        assert self.bins is not None
        return float(self._low[place]) if len(self._low) else self.bins.edge(place)

    def _add(
        self,
        values: Array,
        mask: Array | None,
        inspected: Array | None,
        defects: Sequence[Defect],
    ) -> None:
        require_valid(values, mask, self.seen)
        regions = NONE if mask is None else Regions.of(mask)
        self._unsaturated += regions.count > 0 and not defects
        weights = saturated_weights(values, defects) if defects else None
        if inspected is not None and weights is not None:
            weights = weights[inspected][None]
        if inspected is not None:  # as one row
            values, regions = values[inspected][None], regions.selected(inspected)
        if self.bins is None:
            fitted = Bins.fitted(values.ravel())
            if fitted is not None:
                self._open(fitted, fitted.ties)
        if self.bins is None:
            pixels, shares = regions.pixels, 0.0 if weights is None else float(weights.sum())
            normal = values.size - pixels
            self._constant.append((values.ravel()[:1], normal, pixels, regions.count, shares))
        else:
            values = values.astype(type(self.bins.centre), copy=False)
            self._count(values, regions)
            if weights is not None:
                self._count_saturated(values[weights > 0], weights[weights > 0])
        if self.threshold is not None:
            self._count_flagged(values > values.dtype.type(self.threshold), regions)
        self.seen += 1

    def _count(self, values: Array, regions: Regions) -> None:
        from vqlab.metrics import kernels  # numba is slow to import

        assert self.bins is not None
        coarse = np.zeros((3, 2 * kernels.COARSE_SIDE if self._keep else 0))
        kernels.count(
            values, (regions.labels, regions.top, regions.left, regions.weights),
            (self.bins.centre, self.bins.per_scale), self._normal, self._defective, coarse,
        )  # fmt: skip
        extremes = np.array([values.min(), values.max()])
        self._extend(values.ravel() if self.bins.ties else extremes)
        self._keep_image(coarse)

    def _count_saturated(self, values: Array, weights: Array) -> None:
        """Add the saturated weights (n,) of pixels with values (n,) to their bins."""
        assert self.bins is not None
        if not len(self._saturated):
            self._saturated = np.zeros(len(self._defective))
        np.add.at(self._saturated, self.bins.places(values), weights)

    def _extend(self, values: Array) -> None:
        """Extend the span, and the extremes of every bin if ties are tracked, to values (n,)."""
        assert self.bins is not None
        places = self.bins.places(values)
        if self.bins.ties:
            np.minimum.at(self._low, places, values)
            np.maximum.at(self._high, places, values)
        start, stop = min(self._span.start, places.min()), max(self._span.stop, places.max() + 1)
        self._span = slice(int(start), int(stop))

    def _count_flagged(self, flagged: Array, regions: Regions) -> None:
        """Count the pixels of a map with verdicts (h, w)."""
        at, hit = self.at, regions.inside(flagged)
        hits, above = int(np.count_nonzero(hit)), int(np.count_nonzero(flagged))
        at.true_positives += hits
        at.false_positives += above - hits
        at.false_negatives += regions.pixels - hits
        at.true_negatives += flagged.size - above - (regions.pixels - hits)
        at.overlap += float(regions.pixel_weights()[hit].sum())
        at.regions += regions.count

    def _open(self, bins: Bins, ties: bool) -> None:
        """Use these bins; count the constant maps seen before."""
        from vqlab.metrics import kernels  # numba is slow to import

        self.bins = replace(bins, ties=ties)
        if ties:
            kind = type(bins.centre)
            self._low = np.full(len(self._normal), np.inf, kind)
            self._high = np.full(len(self._normal), -np.inf, kind)
        for value, normal, defective, regions, shares in self._constant:
            value = value.astype(type(bins.centre))
            place = int(bins.places(value)[0])
            self._normal[place] += normal
            self._defective[place] += defective, regions
            if shares:
                self._count_saturated(value, np.array([shares]))
            self._extend(value)
            coarse = np.zeros((3, 2 * kernels.COARSE_SIDE))
            coarse[:, place >> kernels.COARSE_SHIFT] = normal, defective, regions
            self._keep_image(coarse)
        self._constant.clear()

    def _keep_image(self, coarse: Array) -> None:
        """Keep the coarse histogram (3, 2·COARSE_SIDE) of a map, lowest scores first."""
        if self._keep:
            parts = coarse[: 3 if coarse[1].any() else 1, ::-1]
            self.images.append(parts.astype(np.float32))


def _as_floats(values: ArrayLike) -> Array:
    """Convert to contiguous float64 (float64 and wide integers) or float32."""
    array = np.asarray(values)
    wide = np.result_type(array.dtype, np.float32) == np.float64
    return np.ascontiguousarray(array, np.float64 if wide else np.float32)
