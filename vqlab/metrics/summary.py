"""The figures of a detector, at image and at pixel level, each from one ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from vqlab.metrics.ranking import (
    Curve,
    Ranking,
    area,
    average_precision,
    best_f1,
    precision_recall_curve,
    pro_curve,
    rank,
    roc_curve,
    thin,
)

Array = NDArray[Any]
FPR_LIMIT = 0.3
"""AUPRO integrates up to this false-positive rate (Bergmann et al., MVTec AD, IJCV 2021)."""
_EIGHT_CONNECTED = np.ones((3, 3), dtype=np.int8)


@dataclass(frozen=True)
class Summary:
    """Metrics by name, curves by name, and where F1 is best; all empty where undefined."""

    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    f1max_threshold: float | None = None
    """Flagging scores at or above this gives the F1max."""


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """image_auroc, image_ap and image_f1max; see `summarise_images`."""
    return summarise_images(scores, labels).metrics


def pixel_metrics(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> dict[str, float]:
    """pixel_auroc, pixel_ap, pixel_f1max and aupro; see `summarise_pixels`."""
    return summarise_pixels(maps, masks).metrics


def summarise_images(scores: ArrayLike, labels: ArrayLike) -> Summary:
    """scores (N,) real; labels (N,), 0 normal, 1 defect. Curves `roc`, `precision_recall`.

    Empty without a normal image or without a defect. Raises ValueError for a score that is NaN or
    infinite (naming its index) and for shapes that disagree.
    """
    values, truth = np.asarray(scores), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(
            "scores and labels must be of one shape (N,); "
            f"got scores {values.shape} and labels {truth.shape}."
        )
    finite = np.isfinite(values)
    if not finite.all():
        index = int(np.argmin(finite))
        raise ValueError(f"scores must be finite; got {values[index]} at index {index}.")
    defect = truth.astype(bool)
    if defect.all() or not defect.any():
        return Summary()
    ranking = rank(values[defect], values[~defect])
    return _summary("image", ranking)


def summarise_pixels(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> Summary:
    """maps: anomaly maps (h_i, w_i), real; masks (h_i, w_i), non-zero where defective.

    Pixels of all images are ranked together. AUPRO weights them so that each 8-connected region
    of the masks counts alike. Curves `roc`, `precision_recall`, and `pro` up to `FPR_LIMIT`.
    Empty without a defective pixel or without a normal one. Raises ValueError for a map with NaN
    or infinity (naming its index) and for shapes or counts that disagree. Needs one copy of the
    maps beyond them.
    """
    scored = [np.asarray(values) for values in maps]
    truth = [np.asarray(mask).astype(bool, copy=False) for mask in masks]
    _check(scored, truth)
    found = sum(int(np.count_nonzero(mask)) for mask in truth)
    total = sum(mask.size for mask in truth)
    if found == 0 or found == total:
        return Summary()
    kind = np.result_type(*{values.dtype for values in scored}, np.float32)
    positives, negatives = np.empty(found, kind), np.empty(total - found, kind)
    weights = np.empty(found)
    filled = passed = 0
    for values, mask in zip(scored, truth, strict=True):
        if not mask.any():
            negatives[passed : passed + mask.size] = values.ravel()
            passed += mask.size
            continue
        inside, outside = values[mask], values[~mask]
        positives[filled : filled + inside.size] = inside
        weights[filled : filled + inside.size] = _region_weights(mask)
        negatives[passed : passed + outside.size] = outside
        filled, passed = filled + inside.size, passed + outside.size
    ranking = rank(positives, negatives, weights)
    summary = _summary("pixel", ranking)
    pro = pro_curve(ranking)
    summary.metrics["aupro"] = area(pro, FPR_LIMIT)
    summary.curves["pro"] = thin(_up_to(pro, FPR_LIMIT))
    return summary


def _summary(level: str, ranking: Ranking) -> Summary:
    roc = roc_curve(ranking)
    f1, threshold = best_f1(ranking)
    return Summary(
        metrics={
            f"{level}_auroc": area(roc),
            f"{level}_ap": average_precision(ranking),
            f"{level}_f1max": f1,
        },
        curves={"roc": thin(roc), "precision_recall": thin(precision_recall_curve(ranking))},
        f1max_threshold=threshold,
    )


def _check(maps: list[Array], masks: list[Array]) -> None:
    if len(maps) != len(masks):
        raise ValueError(f"there must be one mask per map; got {len(maps)} and {len(masks)}.")
    for index, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        if values.ndim != 2 or values.shape != mask.shape:
            raise ValueError(
                "a map and its mask must be of one shape (h, w); "
                f"got map {values.shape} and mask {mask.shape} at index {index}."
            )
        if not np.isfinite(values).all():
            count = int(np.count_nonzero(~np.isfinite(values)))
            raise ValueError(f"maps must be finite; got {count} NaN or infinite at index {index}.")


def _region_weights(mask: Array) -> Array:
    """1 / area of its own region, for every defective pixel in order."""
    regions, _ = ndimage.label(mask, structure=_EIGHT_CONNECTED)
    own = regions[mask]
    weights: Array = 1.0 / np.bincount(own)[own]
    return weights


def _up_to(curve: Curve, limit: float) -> Curve:
    """The part of a curve with x <= limit, ended by its point at the limit."""
    inside = int(np.searchsorted(curve.x, limit, side="right"))
    end = float(np.interp(limit, curve.x[inside - 1 :], curve.y[inside - 1 :]))
    return Curve(np.append(curve.x[:inside], limit), np.append(curve.y[:inside], end))
