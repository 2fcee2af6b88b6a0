"""Select stored runs by category, detector, status, kind, age and metrics."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from vqlab.errors import UserError, did_you_mean
from vqlab.tracking.categories import matches_categories
from vqlab.tracking.record import RunRecord

STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
KINDS = (
    "train", "trial", "threshold", "evaluate", "study", "benchmark", "comparison", "correlate",
)  # fmt: skip
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_CONDITION = re.compile(r"\s*(\S+?)\s*(>=|<=|>|<)\s*(\S+)\s*")
_AGE = re.compile(r"([0-9]{1,6})\s*([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True)
class Condition:
    """A condition on a metric, such as `test/image_auroc>=0.9`."""

    key: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition. Raises UserError if it is malformed."""
        match = _CONDITION.fullmatch(text)
        try:
            if match:
                return cls(match[1], match[2], float(match[3]))
        except ValueError:
            pass
        raise UserError(
            f"a condition must be METRIC>=NUMBER (or <=, >, <), such as test/image_auroc>=0.9; got "
            f"{text!r}."
        )

    def holds(self, run: RunRecord) -> bool:
        """Return whether the run has the metric and meets the condition."""
        value = run.metrics.get(self.key)
        return value is not None and _COMPARE[self.sign](value, self.bound)


@dataclass(frozen=True)
class RunFilter:
    """Selection of runs; an empty filter selects all."""

    category: str | None = None
    detector: str | None = None
    status: str | None = None
    kind: str | None = None
    study: str | None = None
    """Name of a study, or key of a benchmark."""
    older_than: timedelta | None = None
    """Minimum age since the start of the run."""
    conditions: Sequence[Condition] = field(default_factory=tuple)

    @property
    def empty(self) -> bool:
        """Whether every run is selected."""
        return self == RunFilter()

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("status", self.status, STATUSES), ("kind", self.kind, KINDS),
        ):  # fmt: skip
            if value is not None and value not in choices:
                raise UserError(f"--{name} must be one of {', '.join(choices)}; got {value!r}.")

    def select(self, runs: Iterable[RunRecord]) -> list[RunRecord]:
        """Return the selected runs in their order. Raises UserError for a metric of no run."""
        runs = list(runs)
        self._require_metrics(runs)
        now = datetime.now(timezone.utc)
        return [run for run in runs if self._selects(run, now)]

    def _selects(self, run: RunRecord, now: datetime) -> bool:
        tags = run.tags
        return (
            (self.category is None or self._is_of(run))
            and (self.detector is None or self._detects(tags.get("vqlab.detector", "")))
            and self.status in (None, run.status)
            and self.kind in (None, tags.get("vqlab.kind"))
            and self.study in (None, tags.get("vqlab.study"), tags.get("vqlab.benchmark"))
            and (self.older_than is None or now - run.start > self.older_than)
            and all(condition.holds(run) for condition in self.conditions)
        )

    def _detects(self, detectors: str) -> bool:
        """Return whether the detector is among those of a run; a study may have several."""
        return self.detector in (detectors, *detectors.split("+"))

    def _is_of(self, run: RunRecord) -> bool:
        assert self.category is not None
        return matches_categories(self.category, run.categories) or run.experiment == self.category

    def _require_metrics(self, runs: Sequence[RunRecord]) -> None:
        for condition in self.conditions:
            if runs and not any(condition.key in run.metrics for run in runs):
                keys = sorted({key for run in runs for key in run.metrics})
                hint = did_you_mean(condition.key, keys) or f"known: {', '.join(keys[:5])}, …"
                raise UserError(f"no run has the metric {condition.key}; {hint}")


def parse_age(text: str) -> timedelta:
    """Return the duration of `30m`, `12h`, `7d` or `2w`. Raises UserError for anything else."""
    match = _AGE.fullmatch(text.strip())
    if not match:
        raise UserError(
            "an age must be a number of at most six digits and m, h, d or w, such as 7d; got "
            f"{text!r}."
        )
    return timedelta(**{_UNITS[match[2]]: int(match[1])})
