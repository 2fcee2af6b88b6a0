"""The figures of a detector at image and at pixel level, exactly, from scores in memory.

`PixelStream` gives the same pixel figures in one pass and bounded memory, with their bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from vqlab.metrics.exact import group
from vqlab.metrics.groups import (
    Array,
    Curve,
    Groups,
    aupro,
    auroc,
    average_precision,
    best_f1,
    precision_recall_curve,
    pro_curve,
    roc_curve,
)
from vqlab.metrics.regions import Regions

FPR_LIMIT = 0.3
"""`aupro` integrates up to this false-positive rate (Bergmann et al., MVTec AD, IJCV 2021)."""
STRICT_LIMIT = 0.05
"""`aupro_005` up to this one (Bergmann et al., MVTec 3D-AD, VISAPP 2022, Sec. 5)."""


@dataclass(frozen=True)
class Summary:
    """Metrics by name, curves by name, and where F1 is best; all empty where undefined."""

    metrics: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    """How far each metric can be from that of the unbinned scores; all 0 in exact mode."""
    curves: dict[str, Curve] = field(default_factory=dict)
    f1max_threshold: float | None = None
    """Flagging scores at or above this gives the F1max."""


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """image_auroc, image_ap and image_f1max; see `summarise_images`."""
    return summarise_images(scores, labels).metrics


def pixel_metrics(maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> dict[str, float]:
    """pixel_auroc, pixel_ap, pixel_f1max, aupro, aupro_005; see `summarise_pixels`."""
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
    groups, lowest = group(values[defect], values[~defect])
    return summarise("image", groups, lambda index: float(lowest[index]))


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
    overlap = np.empty(found)
    filled = passed = 0
    for values, mask in zip(scored, truth, strict=True):
        inside, outside = values[mask], values[~mask]
        positives[filled : filled + inside.size] = inside
        overlap[filled : filled + inside.size] = Regions.of(mask).pixel_weights()
        negatives[passed : passed + outside.size] = outside
        filled, passed = filled + inside.size, passed + outside.size
    groups, lowest = group(positives, negatives, overlap)
    return summarise("pixel", groups, lambda index: float(lowest[index]))


def summarise(level: str, groups: Groups, lowest: Callable[[int], float]) -> Summary:
    """The summary of groups; `level` is `image` or `pixel`, which also has AUPRO.

    lowest: the least score of a group, by its index.
    """
    if not groups.defined:
        return Summary()
    f1, last = best_f1(groups)
    found = {"auroc": auroc(groups), "ap": average_precision(groups), "f1max": f1}
    estimates = {f"{level}_{name}": estimate for name, estimate in found.items()}
    curves = {"roc": roc_curve(groups)}
    curves["precision_recall"] = precision_recall_curve(groups)
    if level == "pixel":
        estimates["aupro"] = aupro(groups, FPR_LIMIT)
        estimates["aupro_005"] = aupro(groups, STRICT_LIMIT)
        curves["pro"] = pro_curve(groups, FPR_LIMIT)
    return Summary(
        metrics={name: estimate.value for name, estimate in estimates.items()},
        bounds={name: estimate.bound for name, estimate in estimates.items()},
        curves=curves,
        f1max_threshold=lowest(last),
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
