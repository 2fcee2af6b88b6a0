"""Choose an image threshold from the scores of normal and anomalous images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlab.errors import UserError
from vqlab.evaluation import Origin, conformal_threshold
from vqlab.evaluation.operating_point import OperatingPoint
from vqlab.metrics import Count

Array = NDArray[Any]
DEFECT_RATE = 0.01
"""Default share of defective parts in the expected cost."""


@dataclass(frozen=True)
class MaxRejects:
    """At most this share of unseen normal images is rejected (conformal guarantee)."""

    rate: float


@dataclass(frozen=True)
class MaxEscapes:
    """At most this share of anomalous images, exchangeable with the scored ones, passes."""

    rate: float


@dataclass(frozen=True)
class Costs:
    """Lowest expected cost per part."""

    reject: float
    """Cost of a rejected good part."""
    escape: float
    """Cost of a defect that passes."""
    defect_rate: float = DEFECT_RATE
    """Share of defective parts."""

    def of(self, point: OperatingPoint) -> float:
        """Return the expected cost per part."""
        assert point.rejects is not None and point.escapes is not None
        rejects, escapes = (count.hits / count.total for count in (point.rejects, point.escapes))
        good = 1 - self.defect_rate
        return good * self.reject * rejects + self.defect_rate * self.escape * escapes


Target = MaxRejects | MaxEscapes | Costs


@dataclass(frozen=True)
class Choice:
    """A chosen image threshold."""

    threshold: float
    method: Origin
    promised: float | None
    """Upper bound on the expected false-reject rate; None without a guarantee."""
    notes: tuple[str, ...] = ()


def make_target(
    max_rejects: float | None = None,
    max_escapes: float | None = None,
    cost_reject: float | None = None,
    cost_escape: float | None = None,
    defect_rate: float | None = None,
) -> Target | None:
    """Return the target of the options; None without one. Raises UserError unless there is at most
    one, with values in range."""
    targets = [max_rejects is not None, max_escapes is not None]
    targets.append(cost_reject is not None or cost_escape is not None)
    if sum(targets) > 1:
        raise UserError(
            "only one target is allowed: --max-rejects, --max-escapes, or --cost-reject with "
            f"--cost-escape; got {sum(targets)}."
        )
    if defect_rate is not None and not targets[2]:
        raise UserError("--defect-rate requires --cost-reject and --cost-escape; omit it.")
    rates = {
        "--max-rejects": max_rejects, "--max-escapes": max_escapes, "--defect-rate": defect_rate,
    }  # fmt: skip
    for option, rate in rates.items():
        if rate is not None and not 0 < rate < 1:
            raise UserError(f"{option} must be above 0 and below 1, e.g. 0.02; got {rate:g}.")
    if max_rejects is not None:
        return MaxRejects(max_rejects)
    if max_escapes is not None:
        return MaxEscapes(max_escapes)
    if not targets[2]:
        return None
    if cost_reject is None or cost_escape is None or min(cost_reject, cost_escape) <= 0:
        costs = f"{cost_reject} and {cost_escape}"
        raise UserError(f"--cost-reject and --cost-escape must both be positive; got {costs}.")
    return Costs(cost_reject, cost_escape, defect_rate or DEFECT_RATE)


def choose_image_threshold(normals: Array, anomalies: Array, target: Target) -> Choice:
    """Choose a threshold from the scores of normal (N,) and anomalous images (M,).

    Raises UserError if the target needs anomalous images and there are none.
    """
    if isinstance(target, MaxRejects):
        threshold, promised, notes = conformal_threshold(normals, target.rate)
        return Choice(threshold, "conformal", promised, notes)
    if len(anomalies) == 0:
        raise UserError(
            "a target on escapes or costs needs anomalous validation images; the model's data have "
            "none; use --max-rejects."
        )
    if isinstance(target, MaxEscapes):
        return _with_few_escapes(normals, anomalies, target.rate)
    points = operating_points(normals, anomalies)
    best = min(points, key=target.of)  # of equal costs the lowest threshold: fewer escapes
    note = (
        f"Expected cost {target.of(best):.4g} per part, for {target.defect_rate:g} of the parts "
        "defective (--defect-rate). It is the lowest on the images that chose the threshold, so "
        "the cost on new images is higher on average."
    )
    return Choice(best.threshold, "cost", None, (note,))


def _with_few_escapes(normals: Array, anomalies: Array, rate: float) -> Choice:
    """Return the highest threshold that guarantees an escape rate.

    A new score, exchangeable with these M, lies below the j-th lowest of them with probability at
    most j / (M + 1) (split conformal prediction, as `choose_thresholds`).
    """
    count, ordered = len(anomalies), np.sort(anomalies)
    rank = math.floor(rate * (count + 1) + 1e-9)
    notes: tuple[str, ...] = ()
    if rank == 0:
        rank, needed = 1, math.ceil(1 / rate - 1e-9) - 1
        notes = (
            f"Only {count} anomalous images: the threshold below the lowest of their scores "
            f"guarantees an escape rate of {1 / (count + 1):.3g}; {needed} are needed for "
            f"{rate:g}.",
        )
    return Choice(_below(float(ordered[rank - 1]), normals, anomalies), "escapes", None, notes)


def _below(score: float, normals: Array, anomalies: Array) -> float:
    """Return a threshold below a score: halfway to the next lower score, if there is a number
    between."""
    scores = np.concatenate([normals, anomalies])
    lower = scores[scores < score]
    middle = float(lower.max()) / 2 + score / 2 if len(lower) else score
    return middle if middle < score else float(np.nextafter(score, -np.inf))


def operating_points(normals: Array, anomalies: Array) -> list[OperatingPoint]:
    """Return every different pair of errors, by ascending threshold: all images are rejected at
    the first, none at the last."""
    scores = np.unique(np.concatenate([normals, anomalies]).astype(np.float64))
    middles = scores[:-1] / 2 + scores[1:] / 2
    middles = np.where(middles < scores[1:], middles, scores[:-1])
    thresholds = [np.nextafter(scores[0], -np.inf), *middles, scores[-1]]
    return [point_at(float(threshold), normals, anomalies) for threshold in thresholds]


def point_at(threshold: float, normals: Array, anomalies: Array) -> OperatingPoint:
    """Return the errors of a threshold on scores of normal (N,) and anomalous images (M,)."""
    rejects = Count(int((normals > threshold).sum()), len(normals)) if len(normals) else None
    escapes = Count(int((anomalies <= threshold).sum()), len(anomalies)) if len(anomalies) else None
    return OperatingPoint(threshold, rejects, escapes)
