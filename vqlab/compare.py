"""Two runs on the same test images: by how much do they differ, and is it more than chance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vqlab.evaluation import EVIDENCE, Measured, load_evidence
from vqlab.metrics import Difference, distributions, paired_difference, resample
from vqlab.run import warned_of
from vqlab.tracking import RunRecord, Tracker
from vqlab.types import UserError

MEAN = "mean"
"""The mean over categories stands beside them where there are several."""


@dataclass(frozen=True)
class Comparison:
    """The second run measured against the first."""

    first: RunRecord
    second: RunRecord
    values: dict[str, dict[str, tuple[float, float]]]
    """Category, metric: the first's value and the second's."""
    differences: dict[str, dict[str, Difference]]
    """Category, metric: second minus first, its 95 % interval and p-value."""
    warned: list[str] = field(default_factory=list)
    """Categories of which the data audit warns."""


def compare(
    tracker: Tracker, first: str, second: str, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two runs (id, beginning of it, name) by a paired bootstrap over their test images.

    Both are measured on the same resamples, so what makes an image hard for both cancels out.
    Raises UserError where a run was not measured on test, or not on the same images.
    """
    runs = tracker.find(first), tracker.find(second)
    _require_same_test(*runs)
    before, after = (load_evidence(run.artifact(EVIDENCE)) for run in runs)
    found = compared(runs, before, after, resamples, seed)
    audited = [warned_of(run.tags, before) for run in runs]
    found.warned.extend(name for name in before if any(name in each for each in audited))
    return found


def compared(
    runs: tuple[RunRecord, RunRecord],
    before: Mapping[str, Measured],
    after: Mapping[str, Measured],
    resamples: int,
    seed: int,
) -> Comparison:
    """The comparison of what two runs measured on the same images."""
    values: dict[str, dict[str, tuple[float, float]]] = {}
    moved: dict[str, dict[str, np.ndarray]] = {}
    found = Comparison(*runs, values, {})
    for place, category in enumerate(before):
        a, b = before[category], after[category]
        drawn = resample(a.evidence.labels, resamples, seed + place)
        one, two = distributions(a.evidence, drawn), distributions(b.evidence, drawn)
        names = [name for name in one if name in two and name in a.metrics and name in b.metrics]
        values[category] = {name: (a.metrics[name], b.metrics[name]) for name in names}
        moved[category] = {name: two[name] - one[name] for name in names}
    if len(values) > 1:
        shared = set.intersection(*(set(each) for each in values.values()))
        names = [name for name in next(iter(values.values())) if name in shared]
        every = list(values)
        means = {n: np.mean([values[c][n] for c in every], axis=0).tolist() for n in names}
        moved[MEAN] = {n: np.mean([moved[c][n] for c in every], axis=0) for n in names}
        values[MEAN] = {name: (pair[0], pair[1]) for name, pair in means.items()}
    for category, metrics in values.items():
        found.differences[category] = {
            name: paired_difference(moved[category][name], second - first)
            for name, (first, second) in metrics.items()
        }
    return found


def _require_same_test(first: RunRecord, second: RunRecord) -> None:
    for run in (first, second):
        if not any(key.startswith("test/") for key in run.metrics):
            raise UserError(
                f"run {run.short} was not measured on test; `vqlab evaluate --model "
                f"{run.run_id[:8]}` does that."
            )
    marks = [
        tuple(
            run.tags.get(f"vqlab.{name}", "") for name in ("data_fingerprint", "test_fingerprint")
        )
        for run in (first, second)
    ]
    if marks[0] != marks[1]:
        shown = " and ".join(
            f"{run.name} on {'/'.join(part[:8] for part in mark)}"
            for run, mark in zip((first, second), marks, strict=True)
        )
        raise UserError(
            f"two runs must be measured on the same test images to be compared; got {shown} (data/"
            "test fingerprints); evaluate one on the other's data: `vqlab evaluate --model RUN "
            "--data FOLDER`."
        )
