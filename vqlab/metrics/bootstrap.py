"""Bootstrap over images: the uncertainty of metrics.

A test set is one sample of the images a detector will see. Resampling its images with replacement,
normal and anomalous ones separately, shows how far a metric would move on another sample (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993). Whole images are resampled, since the pixels of
an image are correlated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vqlab.metrics.catalogue import METRICS, RATES, Level, Ranking, ThresholdCounts, rates
from vqlab.metrics.groups import Array, Groups
from vqlab.metrics.intervals import LEVEL, Difference, Interval
from vqlab.metrics.summary import rankings

RESAMPLES = 1000
MIN_IMAGES = 5
"""Minimum number of images per label: with one anomalous image, every resample holds that one."""
TOO_FEW = f"resampling needs at least {MIN_IMAGES} normal and {MIN_IMAGES} anomalous images"
CONSTANT = "every resample gives the same value"
_MIN_WIDTH = 1e-9
"""Narrower intervals count as having no width."""
_LEVELS: tuple[Level, ...] = ("image", "pixel")
_BLOCK = 100
"""Resamples per matrix product; bounds the memory."""


@dataclass(frozen=True)
class Evidence:
    """Inputs of resampling, for N images of one category."""

    scores: Array
    """(N,) image scores."""
    labels: Array
    """(N,) 0 normal, 1 anomalous."""
    flagged: Array
    """(N,) bool, whether the image is rejected."""
    negatives: Array
    """(N, bins) float32, normal pixels, highest scores first."""
    positives: Array
    """(N, bins) float32, defective pixels."""
    overlap: Array
    """(N, bins) float32, their share of their regions' areas."""
    reviewed: Array | None = None
    """(N,) bool, whether the image is in review; None without review."""
    kinds: Array | None = None
    """(N,) kind of synthetic anomaly, −1: none; None if no image has one."""

    @classmethod
    def of(
        cls,
        scores: Array,
        labels: Array,
        flagged: Array,
        images: Sequence[Array | None],
        reviewed: Array | None = None,
        kinds: Array | None = None,
    ) -> Evidence:
        """images: histogram per image, see `PixelStream.images`; None if the pixel metrics leave
        it out."""
        width = next((image.shape[1] for image in images if image is not None), 0)
        parts = np.zeros((3, len(images), width), np.float32)
        for index, image in enumerate(images):
            if image is not None:
                parts[: len(image), index] = image
        used = (parts[0] + parts[1]).any(axis=0)
        negatives, positives, overlap = (part[:, used] for part in parts)
        return cls(scores, labels, flagged, negatives, positives, overlap, reviewed, kinds)


def resample(
    labels: Array, resamples: int = RESAMPLES, seed: int = 0, kinds: Array | None = None
) -> Array:
    """Return the multiplicity of each image, (resamples + 1, N) float32, stratified by label.

    The first row is the set itself, every image once. kinds (N,): resample the kinds of synthetic
    anomalies (not −1) as well, then the images of each: the kinds are a sample of the defects that
    may occur (two-stage bootstrap, Davison and Hinkley 1997, section 3.8).
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((resamples + 1, len(labels)), np.float32)
    groups = labels if kinds is None else np.where(kinds >= 0, 2 + kinds, labels)
    for group in np.unique(groups):
        indices = np.flatnonzero(groups == group)
        shares = np.full(len(indices), 1 / len(indices))
        weights[1:, indices] = rng.multinomial(len(indices), shares, resamples)
    if kinds is not None:
        distinct, places = np.unique(kinds[kinds >= 0], return_inverse=True)
        shares = np.full(len(distinct), 1 / len(distinct))
        weights[1:, kinds >= 0] *= rng.multinomial(len(distinct), shares, resamples)[:, places]
    return weights


def distributions(
    evidence: Evidence, weights: Array, names: Collection[str] = METRICS
) -> dict[str, Array]:
    """Return the metrics that are defined on all resamples, (R,) each; weights as of `resample`.

    names: metrics to compute. Image metrics are exact; pixel metrics come from the coarse
    histograms.
    """
    ranked = {level: [m for m in rankings(level) if m.name in names] for level in _LEVELS}
    order = np.argsort(-evidence.scores, kind="stable")
    starts = np.flatnonzero(np.diff(evidence.scores[order], prepend=np.nan) != 0)
    anomalous = evidence.labels.astype(np.float32)
    blocks: list[dict[str, Array]] = []
    for start in range(0, len(weights), _BLOCK):
        block = weights[start : start + _BLOCK]
        measured: dict[str, Array] = {}
        if ranked["image"]:
            positives, negatives = (
                np.add.reduceat((block * label)[:, order], starts, axis=1)
                for label in (anomalous, 1 - anomalous)
            )
            measured |= _rank(ranked["image"], positives, negatives, positives)
        if ranked["pixel"]:
            pixels = evidence.positives, evidence.negatives, evidence.overlap
            measured |= _rank(ranked["pixel"], *(block @ part for part in pixels))
        at = ThresholdCounts.of_images(evidence.labels, evidence.flagged, block, evidence.reviewed)
        blocks.append(measured | rates("image", at))
    defined = [n for n in blocks[0] if n in names and all(n in block for block in blocks)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in defined}


def enough_images(evidence: Evidence, name: str) -> bool:
    """Return whether there are enough images of each label to resample a metric.

    A pixel metric needs images with defective pixels and images with normal ones.
    """
    if METRICS[name].level == "image":
        groups = (evidence.labels == 0, evidence.labels == 1)
    else:
        groups = (evidence.negatives.any(axis=1), evidence.positives.any(axis=1))
    return all(np.count_nonzero(group) >= MIN_IMAGES for group in groups)


def intervals(
    estimates: Mapping[str, float], distributions: Mapping[str, Array]
) -> dict[str, Interval]:
    """Return the bootstrap intervals of the ranking metrics, around `estimates`, which are finer
    than the coarse histograms.

    distributions: as of `distributions`, the first value being that of the set itself. A metric
    without variation has no interval; rates have exact ones (`rate_interval`).
    """
    result = {}
    for name, values in distributions.items():
        if name in estimates and name not in RATES:
            low, high = _tails(values) + estimates[name]
            if high - low > _MIN_WIDTH:
                result[name] = Interval(max(0.0, float(low)), min(1.0, float(high)))
    return result


def paired_difference(shifts: Array, value: float, enough: bool = True) -> Difference:
    """Return the difference of a metric with its bootstrap interval and p-value.

    shifts (R,): the difference on each resample, first on the set itself; value: the difference on
    the set, finer than that of the coarse histograms; enough: whether there are enough images.
    """
    low, high = _tails(shifts) + value
    if high - low <= _MIN_WIDTH:
        return Difference(value, None, 1.0 if abs(value) <= _MIN_WIDTH else None, CONSTANT)
    if not enough:
        return Difference(value, None, None, TOO_FEW)
    shifts = shifts[1:] - shifts[0] + value
    tail = min(int(np.sum(shifts <= 0)), int(np.sum(shifts >= 0)))
    p = min(1.0, 2 * (tail + 1) / (len(shifts) + 1))
    return Difference(value, Interval(float(low), float(high)), p)


def least_auroc(normals: int, anomalous: int) -> float:
    """Return the lowest true AUROC that perfect separation of so many images does not exclude.

    min(n, m) disjoint pairs are all in order with a probability of at most AUROC ** min(n, m): the
    one-sided Clopper-Pearson bound at half of the error.
    """
    return float(((1 - LEVEL) / 2) ** (1 / min(normals, anomalous)))


def _tails(values: Array) -> Array:
    """Both ends of the interval of values (R,), relative to the first, the set itself."""
    tails = np.percentile(values[1:], [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return np.asarray(tails - values[0])


def _rank(
    metrics: Sequence[Ranking], positives: Array, negatives: Array, overlap: Array
) -> dict[str, Array]:
    """Ranking metrics (R,) from counts (R, G) of tied groups; empty if undefined in a row."""
    values = np.empty((len(metrics), len(positives)))
    tied = np.ones(positives.shape[1], np.bool_)
    counts = (positives.astype(np.int64), negatives.astype(np.int64), overlap.astype(np.float64))
    for row, parts in enumerate(zip(*counts, strict=True)):
        groups = Groups(*parts, tied)
        if not groups.defined:
            return {}
        values[:, row] = [metric.compute(groups).value for metric in metrics]
    return {metric.name: column for metric, column in zip(metrics, values, strict=True)}
