"""The verdict `review`: the expected share of normal images, and notes on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vqlab.evaluation.calibration import CalibrationScores

if TYPE_CHECKING:
    from vqlab.evaluation.thresholds import Thresholds


@dataclass(frozen=True)
class ExpectedShares:
    """Expected shares of unseen normal images, by verdict.

    Exact for continuous scores: of n + 1 exchangeable images each is equally likely to have rank k.
    """

    review: float
    reject: float


def expected_shares(thresholds: Thresholds) -> ExpectedShares | None:
    """Return the expected shares; None without calibration scores or without a review threshold."""
    scores = thresholds.calibration
    if scores is None or thresholds.review is None:
        return None
    # p-value just above a threshold
    not_passed, reject = (
        scores.p_value(math.nextafter(value, math.inf))
        for value in (thresholds.review, thresholds.image)
    )
    return ExpectedShares(not_passed - reject, reject)


def review_sentence(thresholds: Thresholds) -> str | None:
    """State the shares of normal images in review and rejected, and what is guaranteed; None
    without a review threshold."""
    shares = expected_shares(thresholds)
    if shares is None or thresholds.calibration is None:
        return None
    sentence = (
        f"Of 100 normal images, {100 * shares.review:.3g} are expected in review and "
        f"{100 * shares.reject:.3g} rejected"
    )
    if thresholds.promised_review is None:
        return f"{sentence}."
    return (
        f"{sentence}; at most {100 * thresholds.promised_review:.3g} in both together are "
        f"guaranteed, on average over draws of {thresholds.calibration.count} held-out images, if "
        "new images resemble these."
    )


def review_notes(
    scores: CalibrationScores, thresholds: tuple[float, float], rates: tuple[float, float]
) -> tuple[str, ...]:
    """Return a note if no image can be in review.

    thresholds: of review and of images. rates: target shares of normal images in review and
    rejected.
    """
    if thresholds[0] < thresholds[1]:
        return ()
    needed = math.ceil(1 / min(rates) - 1e-9) - 1
    reason = (
        f"{needed} are needed for threshold.review_rate {rates[0]:g} with "
        f"threshold.false_reject_rate {rates[1]:g}"
        if scores.count < needed
        else "their scores at both levels are equal"
    )
    return (
        f"No image can be in review: both thresholds are the same score of {scores.count} held-out "
        f"normal images; {reason}.",
    )
