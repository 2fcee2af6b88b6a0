"""The report: what the scores of a set of images are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vqlab.evaluation.scoring import Scored
from vqlab.evaluation.thresholds import Thresholds
from vqlab.metrics import Curve, summarise_images, summarise_pixels


@dataclass(frozen=True)
class Report:
    """What a detector is worth on a set of images; a metric that is undefined is absent.

    Names: image_auroc, image_ap, image_f1max, pixel_auroc, pixel_ap, pixel_f1max, aupro; and at
    the thresholds false_reject_rate (normal images called defective), escape_rate (defects called
    normal), pixel_iou (flagged ∩ defective over flagged ∪ defective pixels, over all images).
    """

    per_category: dict[str, dict[str, float]]
    mean: dict[str, float]
    """The mean over those categories where the metric is defined."""
    pooled: dict[str, float] = field(default_factory=dict)
    """All images as one set, one threshold for all; empty where there is one category."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what is undefined or not promised, and why."""
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    """Per category: image_roc, image_precision_recall, pixel_roc, pixel_precision_recall, pro."""
    f1max_thresholds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Per category and level (image, pixel): flagging scores at or above it gives the F1max."""

    def keyed(self, split: str) -> dict[str, float]:
        """Metric keys such as `test/image_auroc`, the mean over categories.

        With several categories also `test/<category>/image_auroc` and `test/pooled/image_auroc`.
        """
        keyed = {f"{split}/{name}": value for name, value in self.mean.items()}
        if len(self.per_category) > 1:
            for group, metrics in {**self.per_category, "pooled": self.pooled}.items():
                keyed |= {f"{split}/{group}/{name}": value for name, value in metrics.items()}
        return keyed


def evaluate(scored: Scored, thresholds: Thresholds) -> Report:
    """Measure a scored set: per category, their mean, and pooled where there are several."""
    per_category: dict[str, dict[str, float]] = {}
    report = Report(per_category, {}, notes=list(thresholds.notes))
    groups = scored.by_category()
    for category, indices in groups.items():
        part = scored if len(groups) == 1 else scored.take(indices)
        per_category[category] = _measure(category, part, thresholds, report)
    report.mean.update(_mean(per_category, report.notes))
    if len(groups) > 1:
        report.pooled.update(_measure("all categories together", scored, thresholds, None))
    return report


def _measure(
    name: str, scored: Scored, thresholds: Thresholds, report: Report | None
) -> dict[str, float]:
    """The metrics of one set; its curves, F1max thresholds and notes go into `report`."""
    known = [i for i in range(len(scored)) if scored.labels[i] == 0 or scored.masks[i].any()]
    image = summarise_images(scored.image_scores, scored.labels)
    pixel = summarise_pixels([scored.maps[i] for i in known], [scored.masks[i] for i in known])
    metrics = image.metrics | pixel.metrics | _at_thresholds(scored, known, thresholds)
    if report is not None:
        report.notes.extend(_undefined(name, scored, len(known)))
        pixel_curves = {
            key if key == "pro" else f"pixel_{key}": curve for key, curve in pixel.curves.items()
        }
        image_curves = {f"image_{key}": curve for key, curve in image.curves.items()}
        report.curves[name] = image_curves | pixel_curves
        report.f1max_thresholds[name] = {
            level: summary.f1max_threshold
            for level, summary in (("image", image), ("pixel", pixel))
            if summary.f1max_threshold is not None
        }
    return metrics


def _at_thresholds(
    scored: Scored, known: Sequence[int], thresholds: Thresholds
) -> dict[str, float]:
    flagged = scored.image_scores > thresholds.image
    normal = scored.labels == 0
    metrics = {}
    if normal.any():
        metrics["false_reject_rate"] = float(flagged[normal].mean())
    if not normal.all():
        metrics["escape_rate"] = float((~flagged[~normal]).mean())
    if any(scored.masks[i].any() for i in known):
        both = either = 0
        for i in known:
            predicted = scored.maps[i] > thresholds.pixel
            both += int(np.count_nonzero(predicted & scored.masks[i]))
            either += int(np.count_nonzero(predicted | scored.masks[i]))
        metrics["pixel_iou"] = both / either
    return metrics


def _undefined(name: str, scored: Scored, known: int) -> list[str]:
    """A sentence for everything that keeps a metric of this set from being defined."""
    defects = int(scored.labels.sum())
    notes = []
    if defects == 0:
        notes.append(
            f"{name} has no defects here: AUROC, AP, F1max, AUPRO, escape_rate and pixel_iou "
            "are undefined."
        )
    if defects == len(scored):
        notes.append(
            f"{name} has no normal images here: image AUROC, AP, F1max and false_reject_rate are "
            "undefined."
        )
    unmasked = len(scored) - known
    if unmasked:
        left = f"the pixel metrics leave {'it' if unmasked == 1 else 'them'} out"
        none = "the pixel metrics are undefined"
        notes.append(
            f"{name} has {unmasked} of {defects} defect images without a mask: "
            f"{none if unmasked == defects else left}."
        )
    return notes


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
