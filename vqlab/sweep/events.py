"""Events that a sweep emits, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from vqlab.evaluation import Thresholds
from vqlab.metrics import Difference
from vqlab.types import UserError


class TrialKey(NamedTuple):
    """Identity of a trial within a sweep."""

    recipe: str
    """Empty in a sweep of one recipe."""
    number: int
    """Number in the study of that recipe."""

    def __str__(self) -> str:
        return f"{self.recipe}:{self.number}" if self.recipe else str(self.number)

    @classmethod
    def parse(cls, text: str) -> TrialKey:
        """Parse a key such as `3` or `vqflow:3`. Raises UserError for other text."""
        recipe, _, number = text.rpartition(":")
        if not number.isdecimal():
            raise UserError(
                f"a trial must be given as NUMBER or RECIPE:NUMBER; got {text!r}; copy it from the "
                "table of trials."
            )
        return cls(recipe, int(number))


class _OfTrial:
    key: TrialKey

    @property
    def number(self) -> int:
        """Number of the trial in the study of its recipe."""
        return self.key.number

    @property
    def recipe(self) -> str:
        """Recipe of the trial; empty in a sweep of one recipe."""
        return self.key.recipe


@dataclass(frozen=True)
class StudyOpened:
    """The study was opened; nothing was trained yet."""

    study: str
    link: str
    objective: str
    done: int
    """Trials of earlier calls that count towards the target."""
    target: int
    notes: tuple[str, ...]
    """Sentences on the searched backbones, other sweeps and retried trials."""


@dataclass(frozen=True)
class TrialStarted(_OfTrial):
    """A trial is about to train with `params`."""

    key: TrialKey
    params: Mapping[str, Any]
    link: str
    resumed_at: int
    """Epoch of the interrupted trial at which this one resumes; 0: from the start."""


@dataclass(frozen=True)
class EpochDone(_OfTrial):
    """A trial's epoch ended."""

    key: TrialKey
    epoch: int
    epochs: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Progressed:
    """A task before or after training, such as extracting features, made progress."""

    task: str
    done: int
    total: int


@dataclass(frozen=True)
class TrialRow(_OfTrial):
    """One row of a table of trials."""

    key: TrialKey
    state: str
    """COMPLETE, PRUNED, FAIL, RUNNING or WAITING."""
    value: float | None
    params: Mapping[str, Any]
    """Sampled settings, and the settings of scoring and thresholds selected within it."""
    run_id: str | None
    seconds: float | None
    reason: str
    """Why it was pruned or failed, or why a complete trial may not win (a violated constraint, a
    dead codebook); else empty."""
    retry_of: int | None
    """Number of the interrupted trial that it retries."""
    reused: str = ""
    """The trial or run whose training was reused, or the cached features."""
    values: tuple[float, ...] = ()
    """Values of all objectives; `value` is the first."""

    @property
    def training_reused(self) -> bool:
        """Whether the training of another trial or run was reused."""
        return self.reused.startswith(("trial ", "run "))


@dataclass(frozen=True)
class TrialFinished:
    """A trial ended; `best` is the current winner."""

    trial: TrialRow
    best: TrialRow | None
    done: int
    target: int


@dataclass(frozen=True)
class WorkerEnded:
    """A worker failed; the sweep continues."""

    reason: str


Event: TypeAlias = StudyOpened | TrialStarted | EpochDone | Progressed | TrialFinished | WorkerEnded
OnEvent: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True)
class TrialOnTest(_OfTrial):
    """A trial that was scored on test."""

    key: TrialKey
    why: Literal["winner", "earlier winner", "on request"]
    run_id: str
    validation: Mapping[str, float]
    """Its metrics, `validation/…`."""
    test: Mapping[str, float]
    """Its metrics on the test set, `test/…`."""
    notes: tuple[str, ...]
    """Notes about these metrics."""


@dataclass(frozen=True)
class RecipeComparison:
    """Comparison of the best trial of a recipe with the winner, a trial of another recipe."""

    trial: TrialKey
    difference: Difference | None
    """Its objective minus the winner's; None if it cannot be resampled."""
    distinguishable: bool
    """False if validation cannot tell which of the two is better."""

    @property
    def difference_text(self) -> str:
        """The difference with its 95 % interval, if available."""
        if self.difference is None:
            return ""
        text, interval = f"{self.difference.value:+.4f}", self.difference.interval
        return text + (f" [{interval.low:+.4f}, {interval.high:+.4f}]" if interval else "")

    @property
    def verdict(self) -> str:
        return "" if self.distinguishable else "cannot be told apart by validation"


@dataclass(frozen=True)
class SweepResult:
    """Result of a study."""

    study: str
    """Name of the sweep, and of its study if it has one recipe."""
    link: str
    """Address of the trials in the UI, as a table."""
    charts_link: str
    """Address of the trials in the UI, as charts and test pictures."""
    objective: str
    target: int
    best: TrialRow
    reason: str
    """How the winner compares with the trial of its recipe's own settings: one sentence."""
    best_link: str
    """The winner's run in the UI."""
    validation: dict[str, float]
    """The winner's metrics, `validation/…`."""
    test: dict[str, float]
    """The winner's metrics on the test set, `test/…`."""
    baseline: dict[str, float]
    """Metrics of the baseline on the same images, `test_mean_image/…`."""
    notes: tuple[str, ...]
    """Notes about these metrics, including warnings of the data audit."""
    warned: tuple[str, ...]
    """Categories with a data-audit warning."""
    trials: tuple[TrialRow, ...]
    tested: tuple[TrialOnTest, ...]
    """All trials that were scored on test, in this call or an earlier one."""
    recipes: dict[str, TrialRow | None]
    """The best trial of each compared recipe, None if it has no complete trial; empty for a sweep
    of one recipe."""
    comparisons: dict[str, RecipeComparison]
    """By recipe, without that of the winner."""
    recipe: Path
    """Recipe file with the best settings, for `vqlab train`."""
    pictures: Path | None
    """Folder of the winner's test pictures; None if it was deleted (they are also artifacts)."""
    page: Path
    """The study report."""
    parent_id: str
    """The study's own run."""
    seconds: float
    saved: float
    """Seconds saved by reusing trainings and features."""
    thresholds: Thresholds | None = None
    """Thresholds of the winner; None if its checkpoint was deleted."""
