"""Compare two runs on the same test images (paired bootstrap)."""

from __future__ import annotations

from dataclasses import dataclass, field

from vqlab.evaluation import EVIDENCE, load_evidence, paired_differences
from vqlab.metrics import Difference
from vqlab.run import audit_warned
from vqlab.tracking import RunRecord, Tracker
from vqlab.types import UserError


@dataclass(frozen=True)
class Comparison:
    """The second run compared with the first."""

    first: RunRecord
    second: RunRecord
    values: dict[str, dict[str, tuple[float, float]]]
    """Values of the first and the second run, by category and metric."""
    differences: dict[str, dict[str, Difference]]
    """Second minus first, by category and metric."""
    warned: tuple[str, ...] = ()
    """Categories with a data-audit warning."""
    images: dict[str, dict[str, int]] = field(default_factory=dict)
    """Numbers of `normal_images` and `anomalous_images` by category."""


def compare(
    tracker: Tracker, first: str, second: str, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two runs (run ID, unique ID prefix or name) by a paired bootstrap over test images.

    Both are measured on the same resamples, so that shared image difficulty cancels out.
    Raises UserError if a run was not measured on test, or on other images.
    """
    return compare_records(tracker.find(first), tracker.find(second), resamples, seed)


def compare_records(
    first: RunRecord, second: RunRecord, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two stored runs, see `compare`."""
    runs = first, second
    _require_same_test(*runs)
    before, after = (load_evidence(run.artifact(EVIDENCE)) for run in runs)
    paired = paired_differences(before, after, resamples, seed)
    audited = [audit_warned(run.tags, before) for run in runs]
    warned = tuple(name for name in before if any(name in each for each in audited))
    return Comparison(*runs, paired.values, paired.differences, warned, paired.images)


def _require_same_test(first: RunRecord, second: RunRecord) -> None:
    for run in (first, second):
        if not any(key.startswith("test/") for key in run.metrics):
            if run.deletion_note:  # it cannot be evaluated either
                raise UserError(f"run {run.name} was not measured on test, and {run.deletion_note}")
            raise UserError(
                f"run {run.short} was not measured on test; run `vqlab evaluate --model "
                f"{run.run_id[:8]}`."
            )
    names = ("vqlab.data_fingerprint", "vqlab.test_fingerprint")
    a, b = ([run.tags.get(name, "") for name in names] for run in (first, second))
    if a != b:
        areas = [
            [run.params.get(f"data.{name}", "null") for name in ("roi", "ignore")]
            for run in (first, second)
        ]
        advice = "evaluate one on the other's data: `vqlab evaluate --model RUN --data FOLDER`"
        if areas[0] != areas[1]:
            advice = "they inspect different areas of the images (data.roi, data.ignore)"
        raise UserError(
            "two runs must be measured on the same test images to be compared; got "
            f"{first.name} on {a[0][:8]}/{a[1][:8]} and {second.name} on {b[0][:8]}/{b[1][:8]} "
            f"(data/test fingerprints); {advice}."
        )
