"""How sure a metric is: the images drawn again, with replacement, many times.

A test set is one sample of the images a detector will see. Resampling its images, normal and
defective ones apart, shows how far a metric would move on another sample (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993). Pixels are not resampled: those of one image belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqlab.metrics.groups import Array
from vqlab.metrics.interval import LEVEL, Difference, Interval
from vqlab.metrics.proportions import RATES
from vqlab.metrics.stream import Histogram
from vqlab.metrics.summary import FPR_LIMIT, STRICT_LIMIT

RESAMPLES = 1000
FEWEST = 5
"""Images of each label below which resampling says too little: of one defective image, every
resample holds that one."""
TOO_FEW = f"resampling needs at least {FEWEST} normal and {FEWEST} anomalous images"
CONSTANT = "every resample gives the same value"
_WIDTH = 1e-9
"""Below this an interval is of zero width."""
_BLOCK = 100
"""Resamples worked on together: bounds the memory."""


@dataclass(frozen=True)
class Evidence:
    """What N images of one category contribute to its metrics: all that resampling needs."""

    scores: Array
    """(N,) image scores."""
    labels: Array
    """(N,) 0 normal, 1 defect."""
    flagged: Array
    """(N,) bool: called a defect."""
    negatives: Array
    """(N, bins) float32 normal pixels, from the highest scores down."""
    positives: Array
    """(N, bins) defective pixels."""
    overlap: Array
    """(N, bins) their share of their regions' areas."""

    @classmethod
    def of(
        cls, scores: Array, labels: Array, flagged: Array, images: Sequence[Histogram | None]
    ) -> Evidence:
        """images: a histogram each; None for those that the pixel metrics leave out."""
        kept = [image for image in images if image is not None]
        width = len(kept[0].negatives) if kept else 0
        none = np.zeros(width, np.float32)
        parts = []
        for name in ("negatives", "positives", "overlap"):
            rows = [none if image is None else getattr(image, name) for image in images]
            parts.append(np.stack([none if row is None else row for row in rows]))
        held = (parts[0] + parts[1]).any(axis=0)
        return cls(scores, labels, flagged, *(part[:, held] for part in parts))


def resample(labels: Array, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """How often each image is drawn, (resamples, N) float32; as many normals and defects as there
    are. The first row is the set itself, every image once."""
    rng = np.random.default_rng(seed)
    drawn = np.ones((resamples + 1, len(labels)), np.float32)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        drawn[1:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), resamples)
    return drawn


def distributions(evidence: Evidence, drawn: Array) -> dict[str, Array]:
    """Every metric that is defined, for each row of `drawn` (R, N), (R,) each.

    Image metrics are exact, pixel metrics come from the coarse histograms.
    """
    order = np.argsort(-evidence.scores, kind="stable")
    ties = np.flatnonzero(np.diff(evidence.scores[order], prepend=np.nan) != 0)
    defect = evidence.labels.astype(np.float32)
    blocks: list[dict[str, Array]] = []
    for start in range(0, len(drawn), _BLOCK):
        weights = drawn[start : start + _BLOCK]
        found = {}
        for name, own in (("positives", defect), ("negatives", 1 - defect)):
            found[name] = np.add.reduceat((weights * own)[:, order], ties, axis=1)
        measured = _ranked("image", found["positives"], found["negatives"], None)
        positives, negatives = weights @ evidence.positives, weights @ evidence.negatives
        measured |= _ranked("pixel", positives, negatives, weights @ evidence.overlap)
        for name, own, wrong in (
            ("false_reject_rate", 1 - defect, evidence.flagged),
            ("escape_rate", defect, ~evidence.flagged),
        ):
            if own.any():
                measured[name] = (weights @ (own * wrong)) / (weights @ own)
        blocks.append(measured)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def enough(evidence: Evidence, name: str) -> bool:
    """Whether there are enough images of each label to resample a metric; a pixel metric counts
    images with defective pixels and images with normal ones."""
    if name.startswith("image_") or name in RATES:
        labels = (evidence.labels == 0, evidence.labels == 1)
    else:
        labels = (evidence.negatives.any(axis=1), evidence.positives.any(axis=1))
    return all(np.count_nonzero(of) >= FEWEST for of in labels)


def intervals(estimates: Mapping[str, float], found: Mapping[str, Array]) -> dict[str, Interval]:
    """Intervals of the metrics that are in both; `found` as of `distributions`, whose first entry
    is the set itself. Moved to `estimates`, which are finer than the coarse histograms.

    A metric without one where resamples do not vary; rates have exact ones (`rate_interval`).
    """
    given = {}
    for name, values in found.items():
        if name in estimates and name not in RATES:
            low, high = _tails(values) + estimates[name]
            if high - low > _WIDTH:
                given[name] = Interval(max(0.0, float(low)), min(1.0, float(high)))
    return given


def paired_difference(moved: Array, value: float, enough: bool = True) -> Difference:
    """moved (R,): a metric's difference on the same resamples, first the set itself; value: the
    difference on the set, which is finer than that of the coarse histograms; enough: whether there
    are enough images to resample."""
    low, high = _tails(moved) + value
    if high - low <= _WIDTH:
        return Difference(value, None, 1.0 if abs(value) <= _WIDTH else None, CONSTANT)
    if not enough:
        return Difference(value, None, None, TOO_FEW)
    moved = moved[1:] - moved[0] + value
    tail = min(int(np.sum(moved <= 0)), int(np.sum(moved >= 0)))
    p = min(1.0, 2 * (tail + 1) / (len(moved) + 1))
    return Difference(value, Interval(float(low), float(high)), p)


def least_auroc(normals: int, anomalous: int) -> float:
    """Return the lowest true AUROC that perfect separation of so many images does not exclude.

    min(n, m) disjoint pairs are all in order with a probability of at most AUROC ** min(n, m): the
    one-sided Clopper-Pearson bound of so many hits, at half of the error.
    """
    return float(((1 - LEVEL) / 2) ** (1 / min(normals, anomalous)))


def _tails(values: Array) -> Array:
    """Both ends of the interval of values (R,), as seen from the first, the set itself."""
    tails = np.percentile(values[1:], [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return np.asarray(tails - values[0])


def _ranked(
    level: str, positives: Array, negatives: Array, overlap: Array | None
) -> dict[str, Array]:
    """Metrics (R,) from counts (R, G), the highest scores first, ties and bins passed as one."""
    found = np.cumsum(positives, axis=1, dtype=np.float64)
    passed = np.cumsum(negatives, axis=1, dtype=np.float64)
    if not found.size or not found[:, -1].all() or not passed[:, -1].all():
        return {}
    hits, total = found[:, -1:], passed[:, -1:]
    height = found - 0.5 * positives
    precision = found / np.maximum(found + passed, 1e-300)
    measured = {
        f"{level}_auroc": (negatives * height).sum(1) / (hits * total)[:, 0],
        f"{level}_ap": (positives * precision).sum(1) / hits[:, 0],
        f"{level}_f1max": (2 * found / (found + passed + hits)).max(1),
    }
    if overlap is not None:
        top = np.cumsum(overlap, axis=1, dtype=np.float64)
        top /= top[:, -1:]
        for name, limit in (("aupro", FPR_LIMIT), ("aupro_005", STRICT_LIMIT)):
            measured[name] = _area(passed / total, top, limit)
    return measured


def _area(rate: Array, height: Array, limit: float) -> Array:
    """Areas (R,) under curves (R, G) up to `limit`, divided by it."""
    left = np.concatenate([np.zeros((len(rate), 1)), rate[:, :-1]], axis=1)
    base = np.concatenate([np.zeros((len(rate), 1)), height[:, :-1]], axis=1)
    width = np.clip(np.minimum(rate, limit) - left, 0, None)
    share = np.divide(width, rate - left, out=np.ones_like(rate), where=rate > left)
    return np.asarray((width * (base + 0.5 * share * (height - base))).sum(1) / limit)
