"""Content of the report of a sweep besides its trials."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from vqlab.metrics import Difference
from vqlab.sweep.events import RecipeComparison, TrialKey
from vqlab.sweep.report.trial_table import TestMetrics


@dataclass(frozen=True)
class ReportContext:
    """Optional content of the report besides the trials."""

    dataset: str = ""
    """Name and location of the data set."""
    tested: TestMetrics = field(default_factory=dict)
    purposes: Mapping[TrialKey, str] = field(default_factory=dict)
    """Why each trial was tested: `winner` or `on request`."""
    baseline: Mapping[str, float] = field(default_factory=dict)
    """Test metrics of the no-learning baseline `mean_image`."""
    not_clearly_better: Container[TrialKey] = ()
    """Trials that may not win."""
    winner: TrialKey | None = None
    """Default: the trial with the best value that may win."""
    recipes: Mapping[str, RecipeComparison] = field(default_factory=dict)
    """How the other recipes compare with the winner's."""
    reason: str = ""
    """How the winner compares with its recipe's own settings and with other recipes."""
    differences: Mapping[TrialKey, Difference] = field(default_factory=dict)
    """Differences from the trial of the recipe's own settings, in the first objective."""
    notes: Sequence[str] = ()
    run_link: Callable[[str], str] | None = None
    """Address of a run in the MLflow UI, by run ID."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Further addresses by title."""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files by title: test images in panels, scored by the winner."""
