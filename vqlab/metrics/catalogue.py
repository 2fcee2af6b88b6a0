"""The catalogue of metrics: one entry per metric. To add a metric, add its entry here.

Reports, tables, sweep objectives, promotion, the leaderboard and the paired comparison read it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from vqlab.errors import UserError
from vqlab.metrics.groups import Array, Estimate, Groups, aupro, auroc, average_precision, spro

FPR_LIMIT = 0.3
"""`aupro` integrates up to this false-positive rate (Bergmann et al., MVTec AD, IJCV 2021)."""
STRICT_LIMIT = 0.05
"""Limit of `aupro_005` (Bergmann et al., MVTec 3D-AD, VISAPP 2022, Sec. 5)."""

Level = Literal["image", "pixel", "region"]


@dataclass
class ThresholdCounts:
    """Confusion counts of images or pixels at a threshold: numbers, or arrays of one shape."""

    true_positives: Any = 0
    false_positives: Any = 0
    false_negatives: Any = 0
    true_negatives: Any = 0
    overlap: float = 0.0
    """Sum over the regions of their flagged share."""
    regions: int = 0
    in_review: tuple[Any, Any] | None = None
    """Normal and anomalous images that are in review and hence not flagged; None: no review."""

    @classmethod
    def of_images(
        cls,
        labels: Array,
        flagged: Array,
        weights: Array | None = None,
        reviewed: Array | None = None,
    ) -> ThresholdCounts:
        """Count images with labels (N,) and verdicts (N,): rejected, and in review if not None;
        with weights (R, N), the multiplicities of the images in R resamples, counts are (R,)."""

        def count(mask: Array) -> Any:
            return int(mask.sum()) if weights is None else weights @ mask.astype(np.float32)

        anomalous, flagged = labels == 1, flagged.astype(bool)
        masks = anomalous & flagged, ~anomalous & flagged, anomalous & ~flagged
        counts = cls(*map(count, (*masks, ~anomalous & ~flagged)))
        if reviewed is not None:
            reviewed = reviewed.astype(bool) & ~flagged
            counts.in_review = count(~anomalous & reviewed), count(anomalous & reviewed)
        return counts

    @property
    def positives(self) -> Any:
        return self.true_positives + self.false_negatives

    @property
    def negatives(self) -> Any:
        return self.true_negatives + self.false_positives

    @property
    def flagged(self) -> Any:
        return self.true_positives + self.false_positives

    @property
    def escapes(self) -> Any:
        """Anomalous images that pass: neither flagged nor in review."""
        return self.false_negatives - (0 if self.in_review is None else self.in_review[1])

    def review_of(self, label: int) -> tuple[Any, Any]:
        """Return how many images of a label are in review, and of how many; (0, 0) without
        review."""
        if self.in_review is None:
            return 0, 0
        return self.in_review[label], self.positives if label else self.negatives


@dataclass(frozen=True)
class Metric:
    """Description of a metric for tables, objectives and comparisons."""

    name: str
    """Key without the split, such as `image_auroc` of `test/image_auroc`."""
    title: str
    """Column header."""
    level: Level
    """What is counted. Regions are weighted so that each counts alike."""
    headline: int = 0
    """Terminals that show it: 1 all, 2 from 120 columns, 3 from 200, 4 wider; 0 none."""
    objective: bool = False
    """May be a sweep's objective and decide a promotion."""
    greater_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Ranking(Metric):
    """A metric of the order of the scores. Its interval is bootstrapped over images."""

    compute: Callable[[Groups], Estimate]
    """Applied to the scores and, for the interval, to every resample."""
    saturated: bool = False
    """Needs saturation areas of the defects, as in MVTec LOCO AD. It has no interval."""


@dataclass(frozen=True, kw_only=True)
class Rate(Metric):
    """A metric at the stored threshold. Rates of images have exact binomial intervals."""

    ratio: Callable[[ThresholdCounts], tuple[Any, Any]]
    """Numerator and denominator; the rate is undefined where the denominator is 0."""


def presorted_good(groups: Groups, missed: float) -> Estimate:
    """Share of normal images that pass at the strictest threshold at which at most the share
    `missed` of the anomalous images passes too (Baitieva et al., arXiv:2503.23451); 1 is perfect.

    No interpolation: with fewer than 1 / missed anomalous images none may pass. Images with equal
    scores get the same verdict.
    """
    needed = groups.total_positives - int(missed * groups.total_positives + 1e-9)
    rejected = np.searchsorted(groups.true_positives, needed)
    return Estimate(1 - float(groups.false_positives[rejected]) / groups.total_negatives, 0.0)


def presorted_bad(groups: Groups, misclassified: float) -> Estimate:
    """Share of anomalous images that are rejected at the lowest threshold at which at most the
    share `misclassified` of the normal images is rejected too; otherwise as `presorted_good`."""
    allowed = int(misclassified * groups.total_negatives + 1e-9)
    rejected = np.searchsorted(groups.false_positives, allowed, side="right") - 1
    return Estimate(float(groups.true_positives[rejected]) / groups.total_positives, 0.0)


_CATALOGUE = (
    Ranking("image_auroc", "image AUROC", "image", 1, True, compute=auroc),
    Ranking("image_ap", "image AP", "image", 2, True, compute=average_precision),
    Ranking("image_f1max", "image F1max", "image", 3, True, compute=lambda g: g.best_f1[0]),
    Ranking("pixel_auroc", "pixel AUROC", "pixel", 1, True, compute=auroc),
    Ranking("pixel_ap", "pixel AP", "pixel", 2, True, compute=average_precision),
    Ranking("pixel_f1max", "pixel F1max", "pixel", 3, True, compute=lambda g: g.best_f1[0]),
    Ranking("aupro", "AUPRO", "region", 1, True, compute=partial(aupro, limit=FPR_LIMIT)),
    Ranking("aupro_005", "AUPRO 0.05", "region", compute=partial(aupro, limit=STRICT_LIMIT)),
    Ranking(
        "spro_005", "sPRO 0.05", "region", 2, saturated=True,
        compute=partial(spro, limit=STRICT_LIMIT),
    ),
    Ranking("pg2", "PG2", "image", 4, True, compute=lambda g: presorted_good(g, 0.02)),
    Ranking("pb2", "PB2", "image", 4, True, compute=lambda g: presorted_bad(g, 0.02)),
    Rate(
        "false_reject_rate", "false rejects", "image", 1, True, greater_is_better=False,
        ratio=lambda at: (at.false_positives, at.negatives),
    ),
    Rate(
        "escape_rate", "escapes", "image", 1, True, greater_is_better=False,
        ratio=lambda at: (at.escapes, at.positives),
    ),
    Rate(
        "review_rate", "normal in review", "image", 1, greater_is_better=False,
        ratio=lambda at: at.review_of(0),
    ),
    Rate(
        "anomalous_review_rate", "anomalous in review", "image", 2, greater_is_better=False,
        ratio=lambda at: at.review_of(1),
    ),
    Rate(
        "image_recall", "image recall", "image",
        ratio=lambda at: (at.true_positives, at.positives),
    ),
    Rate(
        "image_precision", "image precision", "image",
        ratio=lambda at: (at.true_positives, at.flagged * (at.positives > 0)),
    ),
    Rate(
        "pixel_iou", "pixel IoU", "pixel", objective=True,
        ratio=lambda at: (at.true_positives, at.positives + at.false_positives),
    ),
    Rate(  # Heckler-Kram et al., MVTec AD 2, arXiv:2503.21622
        "seg_f1", "SegF1", "pixel", 4, True,
        ratio=lambda at: (2 * at.true_positives, at.positives + at.flagged),
    ),
    Rate(
        "pixel_recall", "pixel recall", "pixel",
        ratio=lambda at: (at.true_positives, at.positives),
    ),
    Rate(
        "region_overlap", "region overlap", "region",
        ratio=lambda at: (at.overlap, at.regions),
    ),
    Rate(
        "pixel_precision", "pixel precision", "pixel",
        ratio=lambda at: (at.true_positives, at.flagged),
    ),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _CATALOGUE}
"""Metrics by name, in the order of table columns."""
RANKINGS = {name: metric for name, metric in METRICS.items() if isinstance(metric, Ranking)}
RATES = {name: metric for name, metric in METRICS.items() if isinstance(metric, Rate)}
PRIMARY = tuple(name for name, metric in RANKINGS.items() if metric.headline == 1)
"""Default metrics for ranking, in order of preference: the first one that is defined decides."""
OBJECTIVES = tuple(name for name, metric in METRICS.items() if metric.objective)
"""Metrics that may be a sweep's objective or decide a promotion."""

_COST = re.compile(
    r"(.*_)?(loss|nll|error|rate|seconds|time|dead_codes|dead|clipped|gradient_norm)"
)
"""Names of logged values outside the catalogue for which lower is better."""


def get_metric(name: str) -> Metric:
    """Return the entry of a metric. Raises UserError with the nearest names if there is none."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose {', '.join(METRICS)}."
        raise UserError(f"metric must be in the catalogue; got {name!r}; {hint}")
    return METRICS[name]


def headlines(most: int = 3) -> list[str]:
    """Return the names of the metrics shown in tables, those up to the headline level `most`."""
    return [name for name, metric in METRICS.items() if 0 < metric.headline <= most]


def metric_title(name: str) -> str:
    """Return the column header of a metric, also of one outside the catalogue."""
    return METRICS[name].title if name in METRICS else name.replace("_", " ")


def lower_is_better(key: str) -> bool:
    """Return whether lower is better for a logged value such as `test/escape_rate` or `train/loss`.

    Every key under `train/` is a term of the loss or the norm of its gradient.
    """
    split, _, name = key.rpartition("/")
    name = re.sub("_(low|high)$", "", name)
    if name in METRICS:
        return not METRICS[name].greater_is_better
    return split == "train" or bool(_COST.fullmatch(name))


def rates(level: Level, counts: ThresholdCounts) -> dict[str, Any]:
    """Return the defined rates of images (`image`) or of pixels and regions (`pixel`).

    Rates of pixels need a defective one. A rate of arrays must be defined in every element.
    """
    measured: dict[str, Any] = {}
    for name, rate in RATES.items():
        if (rate.level == "image") == (level == "image"):
            numerator, denominator = rate.ratio(counts)
            needed = denominator if level == "image" else denominator * counts.positives
            if (needed > 0).all() if hasattr(needed, "all") else needed > 0:
                measured[name] = numerator / denominator
    return measured
