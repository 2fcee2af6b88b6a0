"""What the report of a sweep says beyond its trials."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from vqlab.metrics import Difference
from vqlab.sweep.events import RecipeComparison, TrialKey
from vqlab.sweep.report.trial_table import TestMetrics


@dataclass(frozen=True)
class ReportContext:
    """What the report says beyond the trials themselves; all of it is optional."""

    dataset: str = ""
    """Name and location of the data set."""
    tested: TestMetrics = field(default_factory=dict)
    purposes: Mapping[TrialKey, str] = field(default_factory=dict)
    """Why each of them was tested: `winner` or `on request`."""
    baseline: Mapping[str, float] = field(default_factory=dict)
    """Test metrics of `mean_image`, which learns nothing."""
    not_clearly_better: Container[TrialKey] = ()
    """Trials that may not win."""
    winner: TrialKey | None = None
    """Default: the trial with the best value that may win."""
    recipes: Mapping[str, RecipeComparison] = field(default_factory=dict)
    """How the other recipes compare with the winner's."""
    reason: str = ""
    """How the winner compares with its recipe's own trial and with other recipes."""
    differences: Mapping[TrialKey, Difference] = field(default_factory=dict)
    """How trials differ in the first objective from their recipe's own."""
    notes: Sequence[str] = ()
    run_link: Callable[[str], str] | None = None
    """Address of a run in the MLflow UI, by run ID."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Further addresses by their titles."""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files by title: test images in panels, scored by the winner."""
