"""Compare several runs on the same test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vqlab.compare.images import TestImage, disagreements
from vqlab.compare.pair import Comparison, compare_records
from vqlab.metrics import headlines, lower_is_better
from vqlab.text import category_text
from vqlab.tracking import RunRecord, Tracker
from vqlab.tracking.run_settings import differing, run_settings, seed_groups
from vqlab.types import UserError

FIRST, BEST = "first", "best"
"""Choices of the baseline besides a run."""


@dataclass(frozen=True)
class RunsComparison:
    """Several runs compared with a baseline."""

    runs: tuple[RunRecord, ...]
    """The baseline first, the others as given."""
    pairs: tuple[Comparison, ...]
    """The comparison of each other run with the baseline."""
    settings: dict[str, tuple[Any, ...]]
    """Settings that differ: the value of each run, None if it has no such setting."""
    groups: list[dict[str, RunRecord]]
    """Runs that differ only in their seed, by seed."""
    images: list[TestImage]
    """Test images on which the runs disagree most."""

    @property
    def baseline(self) -> RunRecord:
        """The run that the others are compared with."""
        return self.runs[0]

    @property
    def title(self) -> str:
        return f"{category_text(self.baseline.categories)}: {len(self.runs)} runs compared"


def compare_runs(
    tracker: Tracker,
    references: Sequence[str],
    *,
    baseline: str = FIRST,
    resamples: int = 1000,
    seed: int = 0,
    images: int = 12,
) -> RunsComparison:
    """Compare two or more runs (run ID, unique ID prefix or name) by paired bootstraps.

    baseline: the run that others are compared with: `first`, `best` (by the first headline metric
    that all have, on test: for reading only), or one of the runs. images: maximum number of test
    images. Raises UserError if a run is given twice, or was not measured on the same images.
    """
    runs = [tracker.find(reference) for reference in references]
    if len({run.run_id for run in runs}) < len(runs) or len(runs) < 2:
        raise UserError("two or more different runs are required; got the same run twice.")
    first = _baseline(tracker, runs, baseline)
    ordered = (first, *(run for run in runs if run.run_id != first.run_id))
    pairs = tuple(compare_records(first, run, resamples, seed) for run in ordered[1:])
    each = [{**_detector(run), **run_settings(run)} for run in ordered]
    names = dict.fromkeys(name for settings in differing(each) for name in settings)
    # Settings that only one of several detectors has do not differ.
    names = {n: None for n in names if len({str(s[n]) for s in each if n in s}) > 1}
    return RunsComparison(
        runs=ordered,
        pairs=pairs,
        settings={name: tuple(settings.get(name) for settings in each) for name in names},
        groups=seed_groups(ordered),
        images=disagreements(ordered, pairs[0].images, images),
    )


def _detector(run: RunRecord) -> dict[str, Any]:
    name = run.tags.get("vqlab.detector")
    return {} if name is None else {"detector": name}


def _baseline(tracker: Tracker, runs: Sequence[RunRecord], choice: str) -> RunRecord:
    if choice == FIRST:
        return runs[0]
    if choice == BEST:
        keys = [f"test/{name}" for name in headlines(1)]
        key = next((key for key in keys if all(key in run.metrics for run in runs)), "")
        if not key:
            raise UserError(
                f"--baseline best needs a metric that all runs have ({', '.join(keys)}); choose a "
                "run instead."
            )
        sign = 1 if lower_is_better(key) else -1
        return min(runs, key=lambda run: sign * run.metrics.get(key, sign * math.inf))
    run = tracker.find(choice)
    if run.run_id not in {each.run_id for each in runs}:
        raise UserError(
            f"--baseline must be `{FIRST}`, `{BEST}` or one of the compared runs; got {choice}."
        )
    return run
