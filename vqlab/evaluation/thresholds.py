"""Thresholds: chosen on held-out images and stored in the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from vqlab.config import Settings
from vqlab.evaluation.calibration import CalibrationScores, display_unit
from vqlab.evaluation.review import review_notes
from vqlab.evaluation.scored import Scored
from vqlab.metrics import PixelStream, summarise_images
from vqlab.types import UserError
from vqlab.verdict import Verdict, calibrated, verdict_of

Array = NDArray[Any]
Method = Literal["conformal", "quantile", "f1max"]
Origin = Literal["conformal", "quantile", "f1max", "escapes", "cost"]
"""How a threshold was chosen: a `Method`, or by `vqlab threshold`."""
SIGNIFICANT = 0.05
"""Significance level at which the guarantee counts as violated."""


class ThresholdSettings(Settings):
    """Section `threshold`: how the image and pixel thresholds are chosen on validation."""

    method: Method = "conformal"
    """`conformal`: guarantees the false-reject rate, whatever the distribution of the scores;
    `quantile`: the plain quantile of the held-out normal images; `f1max`: best F1 on synthetic
    anomalies, for images and for pixels."""
    false_reject_rate: float = Field(default=0.05, gt=0, lt=1)
    """Target share of normal images that are rejected (not with `f1max`)."""
    review_rate: float | None = Field(default=None, gt=0, lt=1)
    """Target share of normal images in review, in addition to those rejected: images with a
    conformal p-value above `false_reject_rate` and at most `false_reject_rate + review_rate` get
    the verdict `review`, for a person to decide. None: no review (not with `f1max`)."""
    pixel_false_positive_rate: float = Field(default=0.005, gt=0, lt=1)
    """Target share of normal pixels above the pixel threshold (not with `f1max`)."""
    region_height: float = Field(default=0.4, ge=0, lt=1)
    """Each region of a predicted mask is cut off at this share of its peak's height above the pixel
    threshold, since the map falls off gradually around a defect. 0: mark every pixel above the
    pixel threshold."""

    @model_validator(mode="after")
    def _review(self) -> ThresholdSettings:
        if self.review_rate is not None and self.method == "f1max":
            raise ValueError("review_rate needs method conformal or quantile; got f1max")
        if self.review_rate is not None and not self.review_rate + self.false_reject_rate < 1:
            raise ValueError(
                "review_rate + false_reject_rate must be below 1; got "
                f"{self.review_rate:g} + {self.false_reject_rate:g}"
            )
        return self


@dataclass(frozen=True)
class Thresholds:
    """An image is rejected if its score exceeds `image`, else in review if it exceeds `review`;
    pixels of an image that does not pass are marked where its anomaly map exceeds `pixel`, see
    `predicted_mask`."""

    image: float
    pixel: float
    notes: tuple[str, ...] = ()
    """Sentences on what the thresholds do not guarantee."""
    method: Origin | None = None
    """How they were chosen; None in older checkpoints."""
    promised: float | None = None
    """Upper bound on the expected false-reject rate on unseen normal images; None without a
    guarantee (`f1max`)."""
    calibration: CalibrationScores | None = None
    """Scores of the held-out normal images."""
    review: float | None = None
    """Images with a score above it, and at most `image`, are in review; None: no review."""
    promised_review: float | None = None
    """Upper bound on the expected share of unseen normal images in review or rejected."""
    region_height: float = 0.0
    """As `ThresholdSettings.region_height`; 0 in older checkpoints."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(self.notes))  # a list if read from JSON

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Thresholds:
        """Restore thresholds from `dataclasses.asdict`, including those of older checkpoints.

        Raises TypeError or ValueError for other values.
        """
        summary = tree.get("calibration")
        read = cls(**{**tree, "calibration": summary and CalibrationScores(**summary)})
        normal = read.calibration
        scores = () if normal is None else (*normal.quantiles, *normal.scores)
        values = [read.image, read.pixel, read.region_height, *scores]
        if np.isnan(np.array(values, np.float64)).any():
            raise ValueError("thresholds must be numbers; got NaN.")
        return read

    def verdict(self, score: float) -> Verdict:
        """Return `pass`, `review` or `reject` for a raw image score."""
        return verdict_of(score, self.image, self.review)

    def p_value(self, score: float) -> float | None:
        """Return the conformal p-value of a raw image score, see `CalibrationScores.p_value`; None
        without calibration scores (older checkpoints)."""
        return None if self.calibration is None else self.calibration.p_value(score)

    def calibrated(self, score: float) -> float:
        """Map a raw image score to [0, 1] for display, 0.5 at the image threshold."""
        return calibrated(score, self.image, display_unit(self.image, self.calibration))


def choose_thresholds(
    validation: Scored, settings: ThresholdSettings, shifted: Sequence[Scored] = ()
) -> Thresholds:
    """Choose thresholds from a scored validation set; only `f1max` uses its defects.

    shifted: its normal images under each capture shift that the model must tolerate (not `f1max`).

    Image: the k-th smallest of the scores of n normal images. An unseen normal image, exchangeable
    with these, exceeds it with probability at most (n + 1 − k) / (n + 1) (split conformal
    prediction; Vovk, Gammerman, Shafer 2005, Algorithmic Learning in a Random World).
    `conformal`: k = ⌈(n + 1)(1 − α)⌉; if n is too small for α, the largest score and a note.
    An image is rejected exactly if its conformal p-value is at most α, and in review if it is at
    most α + `review_rate`. `quantile`: k − 1 = ⌈(n − 1)(1 − α)⌉. `f1max`: halfway between the
    lowest score flagged at the best F1 and the next one. Pixel: the value exceeded by at most the
    target share of normal pixels; `f1max`: just below the lowest value flagged at the best pixel
    F1. With `shifted`, every threshold is the highest of those of the sets, so that the guarantee
    holds under each shift; the k-th calibration score is the highest k-th smallest of the sets.
    Raises ValueError without a normal image, UserError if `f1max` has no defects.
    """
    normals = validation.normals()
    if len(normals) == 0:
        raise ValueError("thresholds need at least one held-out normal image; got none.")
    sets = (normals, *shifted)
    scores = combined_scores([each.image_scores for each in sets])
    summary = CalibrationScores.of(scores)
    if settings.method == "f1max":
        image, pixel = _at_best_f1(validation)
        notes = _uneven(normals, image)
        return Thresholds(
            image, pixel, notes, "f1max", None, summary, region_height=settings.region_height
        )
    choose, rate = _CHOOSE[settings.method], settings.false_reject_rate
    place, promised = choose(len(scores), rate)
    image = float(scores[place - 1])
    pixel = max(_exceeded_by(each, settings.pixel_false_positive_rate) for each in sets)
    notes = _too_few(place, len(scores), rate) + _uneven(normals, image)
    thresholds = Thresholds(
        image, pixel, notes, settings.method, promised, summary,
        region_height=settings.region_height,
    )  # fmt: skip
    if settings.review_rate is None:
        return thresholds
    place, promised = choose(len(scores), rate + settings.review_rate)
    review = float(scores[place - 1])
    notes += review_notes(summary, (review, image), (settings.review_rate, rate))
    return replace(thresholds, review=review, promised_review=promised, notes=notes)


def combined_scores(sets: Sequence[Array]) -> Array:
    """Combine the scores (N,) of the same N normal images under several shifts to N ascending ones.

    The k-th is the highest k-th smallest score of the sets: a threshold from these scores is the
    highest of the thresholds from each set, and a p-value the largest p-value.
    """
    return np.asarray(np.max([np.sort(scores) for scores in sets], axis=0))


def conformal_threshold(scores: Array, rate: float) -> tuple[float, float, tuple[str, ...]]:
    """Return the conformal threshold of normal scores (N,) for a false-reject rate, the rate that
    it guarantees, and notes, see `choose_thresholds`."""
    place, promised = _conformal(len(scores), rate)
    return float(np.sort(scores)[place - 1]), promised, _too_few(place, len(scores), rate)


def _uneven(normals: Scored, threshold: float) -> tuple[str, ...]:
    """Return notes on categories that the shared image threshold does not fit.

    If the scores of all categories have one distribution, the number of a category's m normal
    images among the R rejected of all N is hypergeometric (N, R, m). One-sided test at 0.05 with
    Bonferroni correction. A category rejected too often raises the threshold of all others.
    """
    groups = normals.by_category()
    flagged = normals.image_scores > threshold
    total, rejected = len(normals), int(flagged.sum())
    if len(groups) < 2 or rejected == 0:
        return ()
    from scipy.stats import hypergeom

    notes = []
    for category, places in groups.items():
        rejects, count = int(flagged[places].sum()), len(places)
        if hypergeom.sf(rejects - 1, total, rejected, count) < SIGNIFICANT / len(groups):
            notes.append(
                f"One image threshold for {len(groups)} categories rejects {rejects} of {count} "
                f"held-out normal images of {category} and {rejected - rejects} of {total - count} "
                "others: the image scores of the categories differ in distribution, so "
                "false_reject_rate and escape_rate may mislead; train a model per category for "
                "separate thresholds."
            )
    return tuple(notes)


def guarantee_note(
    thresholds: Thresholds, false_rejects: int, normals: int, in_review: int = 0
) -> str | None:
    """Return a sentence if significantly more normal images were rejected than guaranteed, or else
    in review and rejected together.

    Of m new images, exchangeable with the n calibration images, the number above the k-th smallest
    of these follows a beta-binomial distribution (m; n + 1 − k, k), or is less with ties
    (Angelopoulos and Bates 2021, arXiv:2107.07511, appendix C). One-sided test at 0.05.
    """
    for promised, hits, verdicts in (
        (thresholds.promised, false_rejects, "were rejected"),
        (thresholds.promised_review, false_rejects + in_review, "are in review or rejected"),
    ):
        if promised is None or thresholds.calibration is None or hits <= promised * normals:
            continue
        count = thresholds.calibration.count
        chance = float(_false_rejects(count, promised, normals).sf(hits - 1))
        if chance < SIGNIFICANT:
            return (
                f"{hits} of {normals} normal test images ({hits / normals:.3f}) {verdicts}; the "
                f"target from {count} held-out normal images is at most {promised:.3g} "
                f"(p = {chance:.2g}): normal test images seem to differ from normal training "
                "images."
            )
    return None


def guarantee_limit(thresholds: Thresholds, normals: int) -> int | None:
    """Return the largest number of rejected images among `normals` that is not significantly above
    the guarantee, see `guarantee_note`; None without a guarantee or images."""
    if thresholds.promised is None or thresholds.calibration is None or normals == 0:
        return None
    rejects = _false_rejects(thresholds.calibration.count, thresholds.promised, normals)
    limit = int(rejects.isf(SIGNIFICANT))
    while limit < normals and rejects.sf(limit) >= SIGNIFICANT:
        limit += 1
    return max(limit, math.floor(thresholds.promised * normals))


def _false_rejects(count: int, promised: float, normals: int) -> Any:
    """Return the distribution of the number of false rejects among `normals` images, for a
    threshold chosen on `count` images."""
    from scipy.stats import betabinom

    place = _conformal_place(count, promised)
    return betabinom(normals, count + 1 - place, place)


def _conformal_place(count: int, rate: float) -> int:
    return math.ceil((count + 1) * (1 - rate) - 1e-9)


def _conformal(count: int, rate: float) -> tuple[int, float]:
    """Return the rank of the threshold among the sorted scores, from 1, and its guaranteed rate."""
    place = _conformal_place(count, rate)
    return (place, rate) if place <= count else (count, 1 / (count + 1))


def _quantile(count: int, rate: float) -> tuple[int, float]:
    """As `_conformal`; the guarantee is that of the order statistic."""
    place = math.ceil((count - 1) * (1 - rate) - 1e-9) + 1
    return place, (count + 1 - place) / (count + 1)


def _too_few(place: int, count: int, rate: float) -> tuple[str, ...]:
    """Return a note on what is guaranteed if the threshold is the highest of `count` scores.

    The share of normal images above the highest of n scores is Beta(1, n) distributed: its mean is
    1 / (n + 1), and it is at most 1 − 0.05^(1 / n) with 95 % confidence.
    """
    if place < count:
        return ()
    only = f"The image threshold is the highest score of only {count} held-out normal images"
    highest = f"at most {1 - 0.05 ** (1 / count):.2g} with 95 % confidence"
    needed = math.ceil(1 / rate - 1e-9) - 1
    if count < needed:
        return (
            f"{only}: it guarantees a mean false-reject rate of 1 / ({count} + 1) = "
            f"{1 / (count + 1):.3g} ({highest}); {needed} images are needed for {rate:g}.",
        )
    return (
        f"{only}: the target false-reject rate of {rate:g} is a mean over such sets of images; the "
        f"rate of this threshold is {highest}. With at least {math.ceil(2 / rate - 1e-9) - 1} "
        "images it does not depend on a single one.",
    )


_CHOOSE: dict[str, Callable[[int, float], tuple[int, float]]] = {
    "conformal": _conformal,
    "quantile": _quantile,
}


def _exceeded_by(scored: Scored, rate: float) -> float:
    """Return the value exceeded by at most the share `rate` of all inspected pixels; bounded
    memory."""
    counted = scored.maps if scored.inspected is None else [m[m] for m in scored.inspected]
    keep = math.floor(rate * sum(values.size for values in counted)) + 1
    top = np.empty(0, np.float32)
    for index in range(len(scored)):
        top = np.concatenate([top, scored.pixels(index)])
        if top.size > keep:
            top = np.partition(top, top.size - keep)[top.size - keep :]
    return float(top.min())


def _at_best_f1(validation: Scored) -> tuple[float, float]:
    """Return image and pixel threshold; defects without a mask have no pixels."""
    scores, anomalous = validation.image_scores, validation.labels == 1
    masked = [i for i in range(len(validation)) if validation.masks[i].any()]
    usable = masked + [int(i) for i in np.flatnonzero(~anomalous)]
    if not masked:
        raise UserError(
            f"threshold.method f1max needs defects with masks among the validation images; got "
            f"{int(anomalous.sum())} defects, none with a mask; set threshold.method=conformal."
        )
    cut = summarise_images(scores, validation.labels).f1max_threshold
    assert cut is not None  # there are normals and defects
    below = scores[scores < cut]
    image = float(below.max() / 2 + cut / 2) if len(below) else cut
    if image >= cut:  # no score below, or no number between
        image = float(np.nextafter(cut, -np.inf))
    stream = PixelStream()
    for i in usable:
        inspected = validation.inspected and [validation.inspected[i]]
        stream.update([validation.maps[i]], [validation.masks[i]], inspected)
    cut = stream.compute().f1max_threshold
    assert cut is not None
    return image, float(np.nextafter(np.float32(cut), np.float32(-np.inf)))
