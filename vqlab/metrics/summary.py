"""Exact ranking metrics of image scores and anomaly maps that are in memory.

`PixelStream` computes the same pixel metrics in one pass and bounded memory, with error bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.catalogue import FPR_LIMIT, RANKINGS, Level, Ranking
from vqlab.metrics.groups import Array, Curve, Groups, precision_recall_curve, pro_curve, roc_curve
from vqlab.metrics.regions import Regions


@dataclass(frozen=True)
class Summary:
    """Ranking metrics and curves of one level; all empty where undefined."""

    metrics: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    """How far each metric can be from that of the unbinned scores; all 0 in exact mode."""
    curves: dict[str, Curve] = field(default_factory=dict)
    f1max_threshold: float | None = None
    """Flagging scores at or above it reaches F1max."""


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the ranking metrics of images; see `summarise_images`."""
    return summarise_images(scores, labels).metrics


def pixel_metrics(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> dict[str, float]:
    """Return the ranking metrics of pixels and regions; see `summarise_pixels`."""
    return summarise_pixels(maps, masks).metrics


def summarise_images(scores: ArrayLike, labels: ArrayLike) -> Summary:
    """Rank images. scores (N,) real; labels (N,), 0 normal, 1 anomalous.

    Curves: `roc`, `precision_recall`. Empty if a label is missing. Raises ValueError for a NaN or
    infinite score and for shapes that disagree.
    """
    values, truth = np.asarray(scores), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(
            "scores and labels must have the same shape (N,); "
            f"got scores {values.shape} and labels {truth.shape}."
        )
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ValueError(f"scores must be finite; got {values[index]} at index {index}.")
    anomalous = truth.astype(bool)
    if anomalous.all() or not anomalous.any():
        return Summary()
    groups, lowest = Groups.of_scores(values[anomalous], values[~anomalous])
    return summarise("image", groups, lambda index: float(lowest[index]))


def summarise_pixels(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> Summary:
    """Rank the pixels of all images together.

    maps: anomaly maps (h_i, w_i), real; masks (h_i, w_i), non-zero where defective. AUPRO weights
    pixels so that each 8-connected region of the masks counts alike. Curves: `roc`,
    `precision_recall`, and `pro` up to `FPR_LIMIT`. Empty without a defective or without a normal
    pixel. Raises ValueError for a map with NaN or infinity and for shapes or counts that disagree.
    """
    scored = [np.asarray(values) for values in maps]
    truth = [np.asarray(mask).astype(bool, copy=False) for mask in masks]
    require_equal_count(scored, truth)
    for index, (values, mask) in enumerate(zip(scored, truth, strict=True)):
        require_valid(values, mask, index)
    if all(mask.all() for mask in truth) or not any(mask.any() for mask in truth):
        return Summary()
    kind = np.result_type(*{values.dtype for values in scored}, np.float32)
    pairs = list(zip(scored, truth, strict=True))
    positives = np.concatenate([values[mask] for values, mask in pairs], dtype=kind)
    negatives = np.concatenate([values[~mask] for values, mask in pairs], dtype=kind)
    overlap = np.concatenate([Regions.of(mask).pixel_weights() for mask in truth])
    groups, lowest = Groups.of_scores(positives, negatives, overlap)
    return summarise("pixel", groups, lambda index: float(lowest[index]))


def rankings(level: Level, saturated: bool = False) -> list[Ranking]:
    """Return the ranking metrics of images (`image`) or of pixels and regions (`pixel`); with
    `saturated` also those that need saturation areas."""
    metrics = [each for each in RANKINGS.values() if saturated or not each.saturated]
    return [each for each in metrics if (each.level == "image") == (level == "image")]


def summarise(level: Level, groups: Groups, lowest: Callable[[int], float]) -> Summary:
    """Compute the metrics and curves of a level, `image` or `pixel`.

    lowest: return the lowest score of a group, given its index.
    """
    if not groups.defined:
        return Summary()
    measured = rankings(level, groups.saturated is not None)
    estimates = {metric.name: metric.compute(groups) for metric in measured}
    curves = {"roc": roc_curve(groups), "precision_recall": precision_recall_curve(groups)}
    if level == "pixel":
        curves["pro"] = pro_curve(groups, FPR_LIMIT)
    return Summary(
        metrics={name: estimate.value for name, estimate in estimates.items()},
        bounds={name: estimate.bound for name, estimate in estimates.items()},
        curves=curves,
        f1max_threshold=lowest(groups.best_f1[1]),
    )


def require_equal_count(maps: Sized, masks: Sized) -> None:
    """Raise ValueError unless there is one mask per map."""
    if len(maps) != len(masks):
        raise ValueError(f"there must be one mask per map; got {len(maps)} and {len(masks)}.")


def require_valid(values: Array, mask: Array | None, index: int) -> None:
    """Raise ValueError for a map, the one at `index`, of another shape than its mask, or with NaN
    or infinity."""
    if values.ndim != 2 or (mask is not None and values.shape != mask.shape):
        raise ValueError(
            "a map and its mask must have the same shape (h, w); got map "
            f"{values.shape} and mask {mask.shape if mask is not None else 'none'} "
            f"at index {index}."
        )
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ValueError(f"maps must be finite; got {bad} NaN or infinite at index {index}.")
