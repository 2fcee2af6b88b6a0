"""Two runs on the same test images: by how much do they differ, and is it more than chance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vqlab.evaluation import EVIDENCE, MEAN, Measured, load_evidence, paired_differences
from vqlab.metrics import Difference
from vqlab.run import warned_of
from vqlab.tracking import RunRecord, Tracker
from vqlab.types import UserError

__all__ = ["MEAN", "Comparison", "compare", "compared"]


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
    images: dict[str, dict[str, int]] = field(default_factory=dict)
    """Category: how many `normal_images` and `anomalous_images` were compared."""


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
    paired = paired_differences(before, after, resamples, seed)
    return Comparison(*runs, paired.values, paired.differences, images=paired.images)


def _require_same_test(first: RunRecord, second: RunRecord) -> None:
    for run in (first, second):
        if not any(key.startswith("test/") for key in run.metrics):
            if run.not_kept:  # then evaluating it does not work either
                raise UserError(f"run {run.name} was not measured on test, and {run.not_kept}")
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
