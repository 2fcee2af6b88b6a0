"""Reliability of a ranking of settings: do two halves of the images rank them alike?

A rank correlation of validation and test cannot be high if the test images are too few to rank the
settings, or if the settings hardly differ. The ranks on two disjoint halves are correlated, and the
reliability of the whole set follows from that of half of it (Spearman 1910; Brown 1910). ρ divided
by the square root of the reliability of test estimates ρ with unlimited test images (correction for
attenuation, Spearman 1904).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqlab.correlate.rank_correlation import OBJECTIVE, spearman
from vqlab.correlate.table import Row
from vqlab.metrics import Evidence, distributions

HALVES = "halves"
"""Column of a row: JSON, pixel AUROC on both halves of each division by split."""
DIVISIONS = 20
"""Number of random divisions of the images into halves."""


def divide(strata: Sequence[str], seed: int = 0) -> NDArray[np.float32]:
    """Return the halves of N images as multiplicities 0 and 1, (2 · DIVISIONS, N).

    Rows 2i and 2i + 1 are the halves of division i. Each holds half of the images of each stratum;
    the sizes differ by at most one, in a stratum and in total.
    """
    rng = np.random.default_rng(seed)
    groups = np.unique(np.asarray(strata), return_inverse=True)[1]
    halves = np.zeros((2 * DIVISIONS, len(groups)), np.float32)
    for division in range(DIVISIONS):
        order = np.lexsort((rng.random(len(groups)), groups))
        first = int(rng.integers(2))
        for half in range(2):
            halves[2 * division + half, order[(half + first) % 2 :: 2]] = 1
    return halves


def measure_halves(evidence: Evidence, defects: Sequence[str]) -> list[list[float]]:
    """Return pixel AUROC on both halves of each division; empty if it is undefined on one.

    defects (N,): the stratum of each image, its kind of defect.
    """
    values = distributions(evidence, divide(defects), [OBJECTIVE]).get(OBJECTIVE)
    return [] if values is None else np.reshape(values, (-1, 2)).round(6).tolist()


def reliability(rows: Sequence[Row], split: str = "test") -> float | None:
    """Return the reliability of the ranking of `rows` by pixel AUROC on a split, at most 1.

    The mean rank correlation r of the halves is corrected for the length: 2r / (1 + r)
    (Spearman-Brown). At most 0: the images cannot rank the settings. None: too few settings, or
    rows of older versions, which have no halves.
    """
    measured = [json.loads(str(row.get(HALVES, "{}"))).get(split) for row in rows]
    if not rows or not all(measured):
        return None
    values = np.array(measured)  # (settings, DIVISIONS, 2)
    rhos = [spearman(*values[:, division].T.tolist()) for division in range(values.shape[1])]
    defined = [rho for rho in rhos if rho is not None]
    r = float(np.mean(defined)) if defined else 0.0
    return 2 * r / (1 + r) if r > 0 else r


def corrected(rho: float | None, reliability: float | None) -> float | None:
    """Return ρ divided by √reliability; None if that is undefined."""
    if rho is None or reliability is None or reliability <= 0:
        return None
    return rho / math.sqrt(reliability)


def spread(rows: Sequence[Row]) -> float:
    """Return the largest minus the smallest pixel AUROC on test."""
    values = [float(row[name]) for row in rows if (name := f"test/{OBJECTIVE}") in row]
    return max(values, default=0.0) - min(values, default=0.0)
