"""The report: what the scores of a set of images are worth, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import Field

from vqlab.config import Settings
from vqlab.data import ImageSet, resized
from vqlab.evaluation.scoring import Array, Scored
from vqlab.evaluation.thresholds import Thresholds
from vqlab.evaluation.uncertainty import with_intervals
from vqlab.metrics import (
    ANOMALOUS_IMAGES,
    NORMAL_IMAGES,
    Curve,
    Evidence,
    Interval,
    PixelStream,
    Regions,
    Summary,
    summarise_images,
)
from vqlab.text import unique_key

POOLED = "pooled"
"""Stands in the place of a category in the keys of metrics over all images as one set."""


class EvaluationSettings(Settings):
    """Section `evaluation`: how the test set is measured."""

    resolution: Literal["network", "original"] = "network"
    """Where pixels are compared: at the network's size, or at each image's own."""
    resamples: int = Field(default=1000, ge=0, le=100_000)
    """Resamples of the test images behind the 95 % intervals; 0: none."""
    seed: int = Field(default=0, ge=0)
    """Decides the resamples."""


@dataclass(frozen=True)
class Report:
    """What a detector is worth on a set of images; a metric that is undefined is absent.

    Names: image_auroc, image_ap, image_f1max, pixel_auroc, pixel_ap, pixel_f1max, aupro (up to a
    false-positive rate of 0.30), aupro_005; and at the thresholds false_reject_rate (normal images
    called defective), escape_rate (defects called normal), image_precision, image_recall,
    pixel_precision, pixel_recall, pixel_iou (flagged ∩ defective over flagged ∪ defective pixels,
    over all images), region_overlap (mean flagged share of a region).
    """

    per_category: dict[str, dict[str, float]]
    mean: dict[str, float]
    """The mean over those categories where the metric is defined."""
    pooled: dict[str, float] = field(default_factory=dict)
    """All images as one set, one threshold for all; empty where there is one category."""
    notes: tuple[str, ...] = ()
    """Sentences on undefined metrics and unmet guarantees."""
    warned: tuple[str, ...] = ()
    """Categories with a data-audit warning: their image metrics may be optimistic."""
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Per category: image_roc, image_precision_recall, pixel_roc, pixel_precision_recall, pro."""
    f1max_thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per category and level (image, pixel): flagging scores at or above it gives the F1max."""
    bounds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per category: how far binning can have moved a pixel metric; never further."""
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """Per category, and `mean`: 95 % intervals, Clopper-Pearson of rates, bootstrap over images of
    other metrics; none where not asked for, or where the images cannot give one (see `notes`)."""
    images: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per category: how many `normal_images` and `anomalous_images` there are."""
    evidence: dict[str, Evidence] = field(default_factory=dict, repr=False)
    """Per category: what resampling needs, for comparing with another run on the same images."""

    @property
    def pooled_images(self) -> dict[str, int]:
        """The numbers of images of all categories."""
        names = (NORMAL_IMAGES, ANOMALOUS_IMAGES)
        return {name: sum(each.get(name, 0) for each in self.images.values()) for name in names}

    def keyed(self, split: str) -> dict[str, float]:
        """Metric keys such as `test/image_auroc`, the mean over categories; intervals likewise, as
        `test/image_auroc_low` and `_high`.

        With several categories also `test/<category>/image_auroc` and `test/pooled/image_auroc`.
        The numbers of images, `normal_images` and `anomalous_images`, stand beside the metrics that
        come from them: there are none of a mean over categories.
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
    """Measure a scored set: per category, their mean, and pooled where there are several.

    images: the set that was scored; with it masks come in their own size where `settings` ask for
    that, and regions that only meet at the network's size are noted. settings: none gives no
    intervals. keep_evidence: fill `Report.evidence` even without intervals.
    """
    settings = settings or EvaluationSettings(resamples=0)
    parts = {
        category: _Measure(scored, indices, thresholds, settings, images, keep_evidence)
        for category, indices in scored.by_category().items()
    }
    pooled: dict[str, float] = {}
    if len(parts) > 1:
        plain = settings.model_copy(update={"resamples": 0})
        pooled = _Measure(scored, range(len(scored)), thresholds, plain, images).metrics
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


class _Measure:
    """The metrics of some images of a scored set, as one set."""

    def __init__(
        self,
        scored: Scored,
        indices: Sequence[int],
        thresholds: Thresholds,
        settings: EvaluationSettings,
        images: ImageSet | None,
        keep_evidence: bool = False,
    ) -> None:
        chosen = list(indices)
        keep_evidence |= settings.resamples > 0
        self.labels, self.scores = scored.labels[chosen], scored.image_scores[chosen]
        self.flagged = self.scores > thresholds.image
        defects = int(self.labels.sum())
        self.images = {NORMAL_IMAGES: len(chosen) - defects, ANOMALOUS_IMAGES: defects}
        self.known = [i for i in chosen if scored.labels[i] == 0 or scored.masks[i].any()]
        self.unmasked = len(chosen) - len(self.known)
        self.regions = self.met = 0
        self.image = summarise_images(self.scores, self.labels)
        own = settings.resolution == "original" and images is not None
        stream = PixelStream(threshold=thresholds.pixel, keep_images=keep_evidence)
        for values, mask in self._pixels(scored, images, own):
            stream.update([values], None if mask is None else [mask])
        self.pixel: Summary = stream.compute()
        self.metrics = self.image.metrics | self.pixel.metrics | self._at_threshold()
        self.metrics |= stream.at.metrics()
        self.evidence: Evidence | None = None
        if keep_evidence:
            kept = dict(zip(self.known, stream.images, strict=True))
            histograms = [kept.get(i) for i in chosen]
            self.evidence = Evidence.of(self.scores, self.labels, self.flagged, histograms)

    def _pixels(
        self, scored: Scored, images: ImageSet | None, own: bool
    ) -> Iterator[tuple[Array, Array | None]]:
        for i in self.known:
            values, mask = scored.maps[i], scored.masks[i] if scored.labels[i] else None
            if mask is not None and images is not None:
                original = images.original_mask(i)
                count = Regions.of(original).count
                self.regions += count
                self.met += count - Regions.of(mask).count
                mask = original if own else mask
            yield (resized(values, scored.geometry[i].original) if own else values), mask

    def _at_threshold(self) -> dict[str, float]:
        normal = self.labels == 0
        found = {}
        if normal.any():
            found["false_reject_rate"] = float(self.flagged[normal].mean())
        if not normal.all():
            found["escape_rate"] = float((~self.flagged[~normal]).mean())
            found["image_recall"] = 1 - found["escape_rate"]
            if self.flagged.any():
                found["image_precision"] = float((~normal)[self.flagged].mean())
        return found

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
        """A sentence for everything that keeps a metric from being defined, or might mislead."""
        defects = int(self.labels.sum())
        if defects == 0:
            yield (
                f"{name} has no defects here: AUROC, AP, F1max, AUPRO, escape_rate and the pixel "
                "metrics are undefined."
            )
        if defects == len(self.labels):
            yield (
                f"{name} has no normal images here: image AUROC, AP, F1max and false_reject_rate "
                "are undefined."
            )
        if self.unmasked:
            left = f"the pixel metrics leave {'it' if self.unmasked == 1 else 'them'} out"
            none = "pixel metrics (AUROC, AP, F1max, IoU, AUPRO) are missing"
            yield (
                f"{name} has {self.unmasked} of {defects} defect images without a mask: "
                f"{none if self.unmasked == defects else left}."
            )
        if self.met > 0:
            yield (
                f"{name}: at the network's size {self.met} of {self.regions} defect regions touch "
                "another and count as one with it (none vanishes); evaluation.resolution=original "
                "keeps them apart."
            )


def _mean(per_category: Mapping[str, Mapping[str, float]], notes: list[str]) -> dict[str, float]:
    names = dict.fromkeys(name for metrics in per_category.values() for name in metrics)
    mean = {}
    for name in names:
        values = [metrics[name] for metrics in per_category.values() if name in metrics]
        mean[name] = float(np.mean(values))
        if len(values) < len(per_category):
            missing = ", ".join(c for c, metrics in per_category.items() if name not in metrics)
            notes.append(f"The mean {name} leaves out {missing}, where it is undefined.")
    return mean
