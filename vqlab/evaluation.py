"""Evaluation: score a set of images, choose thresholds on normal ones, report what they are worth.

Thresholds are chosen from held-out normal images and never see the test set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vqlab.config import Settings
from vqlab.data import ImageSet
from vqlab.metrics import Curve, summarise_images, summarise_pixels
from vqlab.types import Geometry, Pyramid, Sample, Scores, UserError

Array = NDArray[Any]
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Scored:
    """A set of N images with their scores and their truth, in the order of the set.

    Maps and masks are at the network's resolution, cropped to the box that the image fills.
    """

    maps: list[Array]
    """N anomaly maps (h, w) float32; higher is more anomalous."""
    image_scores: Array
    """(N,) float64; higher is more anomalous."""
    labels: Array
    """(N,) int64: 0 normal, 1 defect."""
    masks: list[Array]
    """N masks (h, w) bool, all False for a normal image."""
    samples: tuple[Sample, ...]
    geometry: tuple[Geometry, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, indices: Sequence[int]) -> Scored:
        """The images at `indices`, in that order."""
        chosen = [int(i) for i in indices]
        return Scored(
            maps=[self.maps[i] for i in chosen],
            image_scores=self.image_scores[chosen],
            labels=self.labels[chosen],
            masks=[self.masks[i] for i in chosen],
            samples=tuple(self.samples[i] for i in chosen),
            geometry=tuple(self.geometry[i] for i in chosen),
        )

    def normals(self) -> Scored:
        """The normal images alone."""
        return self.take([int(i) for i in np.flatnonzero(self.labels == 0)])

    def by_category(self) -> dict[str, list[int]]:
        """The indices of every category's images, categories sorted by name."""
        groups: dict[str, list[int]] = {}
        for index, sample in enumerate(self.samples):
            groups.setdefault(sample.category, []).append(index)
        return dict(sorted(groups.items()))


class Scorer(Protocol):
    """Whatever scores pyramids: a detector."""

    def score(self, pyramid: Pyramid) -> Scores: ...


@torch.inference_mode()
def score_images(
    detector: Scorer,
    backbone: Callable[[Tensor], Pyramid],
    images: ImageSet,
    batch_size: int = 16,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Score every image of a set.

    Raises UserError that names the first image whose score is NaN or infinite, ValueError where
    the detector's maps or scores are of another shape than the images.
    """
    device = device or torch.device("cpu")
    maps: list[Array] = []
    masks: list[Array] = []
    values: list[Array] = []
    samples: list[Sample] = []
    geometry: list[Geometry] = []
    for batch in images.batches(batch_size):
        scores = detector.score(backbone(batch.images.to(device)))
        whole, value = _checked(scores, batch.samples, tuple(batch.masks.shape))
        values.append(value)
        for i, own in enumerate(batch.geometry):
            maps.append(crop(whole[i], own))
            masks.append(crop(batch.masks[i].numpy(), own))
        samples += batch.samples
        geometry += batch.geometry
        if progress is not None:
            progress(len(samples), len(images))
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    image_scores = np.concatenate(values) if values else np.empty(0)
    return Scored(maps, image_scores, labels, masks, tuple(samples), tuple(geometry))


def _checked(
    scores: Scores, samples: Sequence[Sample], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Maps (B, H, W) float32 and image scores (B,) float64 of one batch, all finite."""
    maps = scores.anomaly_map.float().cpu().numpy()
    values = scores.image_score.double().cpu().numpy()
    if maps.shape != shape or values.shape != shape[:1]:
        raise ValueError(
            f"anomaly_map must be {shape} and image_score {shape[:1]} like the images; "
            f"got {maps.shape} and {values.shape}."
        )
    finite = np.isfinite(values) & np.isfinite(maps).all(axis=(1, 2))
    if not finite.all():
        raise UserError(
            f"the scores of image {samples[int(np.argmin(finite))].path} must be finite numbers; "
            "got NaN or infinity: the training diverged; lower training.learning_rate."
        )
    return maps, values


def crop(map: Array, geometry: Geometry) -> Array:
    """The part (h, w) of a map (S, S) that the image fills: a letterbox's padding cut off."""
    top, left, height, width = geometry.box
    return np.ascontiguousarray(map[top : top + height, left : left + width])


class ThresholdSettings(Settings):
    """Section `threshold`: how many normal images and pixels may be flagged."""

    false_reject_rate: float = Field(default=0.05, gt=0, lt=1)
    """Share of normal images that may be called defective, with a finite-sample guarantee."""
    pixel_false_positive_rate: float = Field(default=0.005, gt=0, lt=1)
    """Share of normal pixels that may lie above the pixel threshold."""


@dataclass(frozen=True)
class Thresholds:
    """An image is called defective where its score, a pixel where its map's value, is above."""

    image: float
    pixel: float
    notes: tuple[str, ...] = ()
    """Sentences on what the thresholds can not promise."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))  # a list, when read from JSON


def choose_thresholds(normals: Scored, settings: ThresholdSettings) -> Thresholds:
    """Thresholds from held-out normal images (defects among them are left out).

    Image: the ⌈(n + 1)(1 − α)⌉-th smallest of n scores. An unseen normal image, exchangeable with
    these, exceeds it with probability at most α (split conformal prediction; Vovk et al. 2005).
    Where n is too small for α it is the largest, and a note says so. Pixel: the quantile above
    which at most the set share of these pixels lies. Raises ValueError without a normal image.
    """
    normals = normals.normals()
    count, rate = len(normals), settings.false_reject_rate
    if count == 0:
        raise ValueError("thresholds need at least one held-out normal image; got none.")
    place = math.ceil((count + 1) * (1 - rate) - 1e-9)
    notes = []
    if place > count:
        needed = math.ceil(1 / rate - 1e-9) - 1
        notes.append(
            f"The image threshold is the largest score of {count} held-out normal images: a "
            f"false-reject rate of {rate:g} can be promised from {needed} on, "
            f"here only {1 / (count + 1):.3g}."
        )
    image = np.sort(normals.image_scores)[min(place, count) - 1]
    pixels = np.concatenate([values.ravel() for values in normals.maps])
    allowed = math.floor(settings.pixel_false_positive_rate * pixels.size)
    pixel = np.partition(pixels, pixels.size - 1 - allowed)[pixels.size - 1 - allowed]
    return Thresholds(float(image), float(pixel), tuple(notes))


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
