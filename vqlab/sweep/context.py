"""Context shared by all parts of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from vqlab.config import digest, dump
from vqlab.data import Splits, load_dataset
from vqlab.run import RunConfig
from vqlab.sweep.comparison import Comparison
from vqlab.sweep.events import OnEvent
from vqlab.sweep.study.studies import Studies
from vqlab.sweep.study.winner import WinnerRule
from vqlab.sweep.trial.reuse import EarlierRuns
from vqlab.tracking import Run, Tracker


@dataclass(frozen=True)
class SweepContext:
    """The studies of a sweep with their search spaces, dataset and stores."""

    comparison: Comparison
    splits: Splits
    studies: Studies
    parent: Run
    """The sweep's own MLflow run."""
    tracker: Tracker
    emit: OnEvent
    _datasets: dict[str, Splits] = field(default_factory=dict)

    @cached_property
    def rule(self) -> WinnerRule:
        return WinnerRule(self.studies, self.tracker, self.comparison.objective)

    @cached_property
    def earlier_runs(self) -> EarlierRuns:
        """Runs whose training may be reused."""
        return EarlierRuns(self.tracker, self.splits.fingerprint)

    def splits_for(self, config: RunConfig) -> Splits:
        """Return the dataset for `config`; it is loaded again only if its settings differ."""
        if config.data == self.comparison.first.config.data:
            return self.splits
        key = digest(dump(config.data))
        if key not in self._datasets:
            splits = load_dataset(config.data)
            self.studies.refuse_other_images(splits)
            self._datasets.clear()
            self._datasets[key] = splits
        return self._datasets[key]
