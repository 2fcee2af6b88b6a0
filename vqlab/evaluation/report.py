"""Evaluate the scores of a set of images: metrics, intervals, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from vqlab.config import Settings
from vqlab.data import SYNTHETIC_PREFIX, ImageSet, resize_map, resize_mask
from vqlab.evaluation.scored import Scored
from vqlab.evaluation.spool import Array
from vqlab.evaluation.thresholds import Thresholds
from vqlab.evaluation.uncertainty import with_intervals
from vqlab.metrics import (
    ANOMALOUS_IMAGES,
    NORMAL_IMAGES,
    Curve,
    Defect,
    Evidence,
    Interval,
    PixelStream,
    Regions,
    Summary,
    ThresholdCounts,
    rates,
    summarise_images,
)
from vqlab.text import unique_key

POOLED = "pooled"
"""Stands for the category in the keys of metrics over all images."""


class EvaluationSettings(Settings):
    """Section `evaluation`: how the test set is evaluated."""

    resolution: Literal["network", "original"] = "network"
    """Resolution of the pixel metrics: the network's input size, or that of each image file."""
    batch_size: int = Field(default=1, ge=1, le=4096)
    """Images scored together. At 1 the scores do not depend on the set; larger batches are faster
    on a GPU and change scores by rounding only."""
    shifts: int = Field(default=0, ge=0)
    """Maximum numbers of normal and of anomalous test images that are also scored under capture
    shifts (docs/shifts.md); 0: none. `vqlab promote` scores them if the evaluation did not."""
    resamples: int = Field(default=1000, ge=0, le=100_000)
    """Bootstrap resamples for the 95 % intervals; 0: no intervals."""
    seed: int = Field(default=0, ge=0)
    """Seed of the resamples."""


@dataclass(frozen=True)
class Report:
    """The metrics of a detector on a set of images, by name (`vqlab.metrics.METRICS`).

    An undefined metric is absent.
    """

    per_category: dict[str, dict[str, float]]
    mean: dict[str, float]
    """Mean over the categories in which the metric is defined."""
    pooled: dict[str, float] = field(default_factory=dict)
    """Metrics of all images together; empty for a single category."""
    notes: tuple[str, ...] = ()
    """Sentences on undefined metrics and unmet guarantees."""
    warned: tuple[str, ...] = ()
    """Categories with a data-audit warning: their image metrics may be optimistic."""
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Per category: image_roc, image_precision_recall, pixel_roc, pixel_precision_recall, pro."""
    f1max_thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per category and level (image, pixel): flagging scores at or above it reaches F1max."""
    bounds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per category: upper bound on the error of each pixel metric from binning."""
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """Per category, and `mean`: 95 % intervals, Clopper-Pearson of rates, bootstrap over images of
    ranking metrics; absent if not requested or not determined by the images (see `notes`)."""
    images: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per category: numbers of `normal_images` and `anomalous_images`."""
    evidence: dict[str, Evidence] = field(default_factory=dict, repr=False)
    """Per category: evidence for comparing with another run on the same images."""

    @property
    def pooled_images(self) -> dict[str, int]:
        """The numbers of images of all categories."""
        names = (NORMAL_IMAGES, ANOMALOUS_IMAGES)
        return {name: sum(each.get(name, 0) for each in self.images.values()) for name in names}

    def keyed(self, split: str) -> dict[str, float]:
        """Return the metrics by key: `test/image_auroc` for the mean over categories, with its
        interval `test/image_auroc_low` and `_high`.

        With several categories also `test/<category>/image_auroc` and `test/pooled/image_auroc`.
        The metrics of a category and of the pooled set include the numbers of images.
        """
        keyed = {f"{split}/{name}": value for name, value in self.mean.items()}
        for name, interval in self.intervals.get("mean", {}).items():
            keyed |= {f"{split}/{name}_low": interval.low, f"{split}/{name}_high": interval.high}
        if len(self.per_category) > 1:
            groups = {
                unique_key(category, with_digest=category == POOLED): metrics
                | self.images.get(category, {})
                for category, metrics in self.per_category.items()
            }
            for group, metrics in {**groups, POOLED: self.pooled | self.pooled_images}.items():
                keyed |= {f"{split}/{group}/{name}": value for name, value in metrics.items()}
        else:
            for counts in self.images.values():
                keyed |= {f"{split}/{name}": float(value) for name, value in counts.items()}
        return keyed


def evaluate(
    scored: Scored,
    thresholds: Thresholds,
    settings: EvaluationSettings | None = None,
    images: ImageSet | None = None,
    *,
    keep_evidence: bool = False,
) -> Report:
    """Evaluate a scored set: per category, their mean, and pooled if there are several.

    images: the set that was scored, for masks at their original resolution and a note on regions
    that merge at the network's. settings: default: no intervals. keep_evidence: fill
    `Report.evidence` even without intervals.
    """
    settings = settings or EvaluationSettings(resamples=0)
    parts = {
        category: _Subset(scored, indices, thresholds, settings, images, keep_evidence)
        for category, indices in scored.by_category().items()
    }
    pooled: dict[str, float] = {}
    if len(parts) > 1:
        plain = settings.model_copy(update={"resamples": 0})
        pooled = _Subset(scored, range(len(scored)), thresholds, plain, images).metrics
    per_category = {category: part.metrics for category, part in parts.items()}
    notes = list(thresholds.notes)
    for category, part in parts.items():
        notes.extend(part.notes(category))
    report = Report(
        per_category,
        _mean(per_category, notes),
        pooled,
        notes=tuple(notes),
        curves={category: part.curves for category, part in parts.items()},
        f1max_thresholds={category: part.f1max_thresholds for category, part in parts.items()},
        bounds={category: part.pixel.bounds for category, part in parts.items()},
        images={category: part.images for category, part in parts.items()},
        evidence={c: part.evidence for c, part in parts.items() if part.evidence is not None},
    )
    return (
        with_intervals(report, settings.resamples, settings.seed) if settings.resamples else report
    )


class _Subset:
    """Metrics of a subset of a scored set."""

    def __init__(
        self,
        scored: Scored,
        indices: Sequence[int],
        thresholds: Thresholds,
        settings: EvaluationSettings,
        images: ImageSet | None,
        keep_evidence: bool = False,
    ) -> None:
        indices = list(indices)
        keep_evidence |= settings.resamples > 0
        labels, scores = scored.labels[indices], scored.image_scores[indices]
        flagged, reviewed = scores > thresholds.image, None
        if thresholds.review is not None:
            reviewed = (scores > thresholds.review) & ~flagged
        anomalous = int(labels.sum())
        self.images = {NORMAL_IMAGES: len(indices) - anomalous, ANOMALOUS_IMAGES: anomalous}
        self.masked = [i for i in indices if scored.labels[i] == 0 or scored.masks[i].any()]
        self.unmasked = len(indices) - len(self.masked)
        self.within = "" if scored.inspected is None else " within the inspected area"
        self.regions = self.merged = 0
        self.image = summarise_images(scores, labels)
        original = settings.resolution == "original" and images is not None
        stream = PixelStream(threshold=thresholds.pixel, keep_images=keep_evidence)
        for index, values, mask, inspected in self._pixels(scored, images, original):
            stream.update(
                [values],
                None if mask is None else [mask],
                None if inspected is None else [inspected],
                None if mask is None or images is None else [_defects(images, index, mask)],
            )
        self.pixel: Summary = stream.compute()
        self.metrics = self.image.metrics | self.pixel.metrics
        self.metrics |= rates(
            "image", ThresholdCounts.of_images(labels, flagged, reviewed=reviewed)
        )
        self.metrics |= rates("pixel", stream.at)
        self.evidence: Evidence | None = None
        if keep_evidence:
            by_index = dict(zip(self.masked, stream.images, strict=True))
            histograms = [by_index.get(i) for i in indices]
            kinds = _kinds([scored.records[i].defect for i in indices])
            self.evidence = Evidence.of(scores, labels, flagged, histograms, reviewed, kinds)

    def _pixels(
        self, scored: Scored, images: ImageSet | None, original: bool
    ) -> Iterator[tuple[int, Array, Array | None, Array | None]]:
        """Yield index, anomaly map, mask (None for a normal image) and inspected pixels (None: all)
        of each image; count merged regions."""
        for i in self.masked:
            values, mask = scored.maps[i], scored.masks[i] if scored.labels[i] else None
            if mask is not None and images is not None:
                full = images.original_mask(i)
                count = Regions.of(full).count
                self.regions += count
                self.merged += count - Regions.of(mask).count
                mask = full if original else mask
            inspected = None if scored.inspected is None else scored.inspected[i]
            if original and images is not None:
                values = resize_map(values, scored.geometry[i].original)
                inspected = images.original_inspected(i)
            yield i, values, mask, inspected

    @property
    def curves(self) -> dict[str, Curve]:
        """Curves of both levels, keyed as in `Report.curves`."""
        curves = {f"image_{key}": curve for key, curve in self.image.curves.items()}
        for key, curve in self.pixel.curves.items():
            curves[key if key == "pro" else f"pixel_{key}"] = curve
        return curves

    @property
    def f1max_thresholds(self) -> dict[str, float]:
        """Thresholds that reach F1max, by level."""
        levels = {"image": self.image.f1max_threshold, "pixel": self.pixel.f1max_threshold}
        return {level: value for level, value in levels.items() if value is not None}

    def notes(self, name: str) -> Iterator[str]:
        """Say which metrics are undefined or may mislead."""
        defects = self.images[ANOMALOUS_IMAGES]
        if defects == 0:
            yield (
                f"{name} has no anomalous images: AUROC, AP, F1max, AUPRO, escape_rate and the "
                "pixel metrics are undefined."
            )
        if not self.images[NORMAL_IMAGES]:
            yield (
                f"{name} has no normal images: image AUROC, AP, F1max and false_reject_rate "
                "are undefined."
            )
        if self.unmasked:
            effect = f"pixel metrics exclude {'it' if self.unmasked == 1 else 'them'}"
            if self.unmasked == defects:
                effect = "pixel metrics (AUROC, AP, F1max, IoU, AUPRO) are missing"
            count = f"{self.unmasked} of {defects} defect images"
            yield f"{name}: {count} have no mask{self.within}; {effect}."
        if self.merged > 0:
            yield (
                f"{name}: at the network's resolution {self.merged} of {self.regions} defect "
                "regions merge with another; evaluation.resolution=original keeps them apart."
            )


def _kinds(defects: Sequence[str]) -> Array | None:
    """Return the kind of synthetic anomaly of each image, as in `Evidence.kinds`."""
    names = sorted({defect for defect in defects if defect.startswith(SYNTHETIC_PREFIX)})
    places = {name: place for place, name in enumerate(names)}
    return np.array([places.get(defect, -1) for defect in defects]) if names else None


def _defects(images: ImageSet, index: int, mask: Array) -> list[Defect]:
    """Return the defects with saturation areas of an image, at the size of its mask (h, w)."""
    defects = []
    for defect in images.saturated(index):
        part = resize_mask(defect.mask, mask.shape) & mask  # the mask: within the inspected area
        if part.any():
            defects.append(Defect(part, defect.saturation))
    return defects


def _mean(per_category: Mapping[str, Mapping[str, float]], notes: list[str]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics in per_category.values() for name in metrics)
    mean = {}
    for name in names:
        values = [metrics[name] for metrics in per_category.values() if name in metrics]
        mean[name] = float(np.mean(values))
        if len(values) < len(per_category):
            missing = ", ".join(c for c, metrics in per_category.items() if name not in metrics)
            notes.append(f"The mean {name} excludes {missing}, where it is undefined.")
    return mean
