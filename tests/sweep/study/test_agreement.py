"""Agreement between kinds of synthetic anomalies on the ranking of trials."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vqlab.evaluation import CategoryEvidence
from vqlab.metrics import Evidence
from vqlab.sweep.study.agreement import agreement

KINDS = np.repeat([-1, 0, 1, 2], 5)


def trial(*quality: float) -> dict[str, CategoryEvidence]:
    """Return scores of 5 normal images and of 5 anomalies of each kind, which stand out by
    `quality`."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20) + np.repeat([0, *quality], 5)
    labels, none = (KINDS >= 0).astype(int), np.zeros((20, 1), np.float32)
    evidence = Evidence(scores, labels, scores > 9, none, none, none, kinds=KINDS)
    return {"toy": CategoryEvidence({}, evidence)}


def agreement_table(rows: NDArray[np.float64]) -> float | None:
    return agreement([trial(*row) for row in rows], "image_auroc")


def test_kinds_with_equal_rankings_agree() -> None:
    assert agreement_table(np.linspace(0, 1.5, 6)[:, None] * [1, 1, 1]) == pytest.approx(1, abs=0.1)


def test_opposed_kind_lowers_the_agreement() -> None:
    """One of three pairs agrees and two are opposed: (1 − 1 − 1)

    3.
    """
    value = agreement_table(np.linspace(-1, 1, 6)[:, None] * [1, 1, -1])
    assert value == pytest.approx(-1 / 3, abs=0.15)


def test_too_few_trials_have_no_agreement() -> None:
    assert agreement_table(np.ones((3, 3))) is None, "three trials"
    assert agreement_table(np.ones((6, 3))) is None, "all trials equal"
    real = trial(1, 1, 1)["toy"].evidence
    without = Evidence(*(getattr(real, name) for name in (
        "scores", "labels", "flagged", "negatives", "positives", "overlap")))  # fmt: skip
    assert agreement([{"toy": CategoryEvidence({}, without)}] * 6, "image_auroc") is None
