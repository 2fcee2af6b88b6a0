"""Choose the winner of a study: a recipe's own settings unless a trial is clearly better, and the
first recipe that is not clearly worse than the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.trial import FrozenTrial

from vqlab.evaluation import (
    MEAN,
    VALIDATION_EVIDENCE,
    CategoryEvidence,
    load_evidence,
    paired_differences,
)
from vqlab.metrics import Difference
from vqlab.sweep.events import RecipeComparison, TrialKey
from vqlab.sweep.study.agreement import ACROSS, WITHIN, agreement
from vqlab.sweep.study.policy import best_of, candidates
from vqlab.sweep.study.record import key_of, recipe_of, record_of
from vqlab.sweep.study.studies import Studies
from vqlab.tracking import Tracker
from vqlab.types import UserError

MARGIN = 0.005
"""Required improvement over the recipe's own settings on synthetic anomalies: half a point."""


@dataclass
class WinnerRule:
    """Rank the complete trials of a sweep.

    The validation set is one small sample of images, and the best of many trials is partly the
    luckiest. So a trial replaces the recipe's own settings only if the 95 % interval
    of their difference in the objective, by the paired bootstrap over the validation images,
    excludes 0 (Efron and Tibshirani 1993); the interval of a rate is that of McNemar's exact test.
    Synthetic anomalies differ from the defects that will occur. So their kinds are resampled too,
    and the interval must exclude `MARGIN` (docs/validation.md).
    If the validation images are too few for an interval, the recipe's own settings win.
    Compared recipes are ranked by the same rule: the first recipe, in the order of the comparison,
    wins whose best trial is not clearly worse than the best of all.
    If an objective has no bootstrap distribution, or a run no evidence, the value decides.
    """

    studies: Studies
    tracker: Tracker
    objective: str
    """`validation/…`."""
    deleted: set[TrialKey] = field(default_factory=set)
    """Trials whose runs were deleted, which are excluded."""
    _evidence: dict[TrialKey, Mapping[str, CategoryEvidence] | None] = field(default_factory=dict)
    _differences: dict[tuple[TrialKey, TrialKey], Difference | None] = field(default_factory=dict)

    def winner(
        self, recipe: str | None = None, trials: Sequence[FrozenTrial] | None = None
    ) -> FrozenTrial | None:
        """Return the winning trial (of one recipe, or of all), None without a complete trial.

        trials: all trials of the sweep if the caller has read them already.
        """
        trials = self._all_trials(trials)
        if recipe is None:
            return self._first_of_the_best(trials)
        rejected = self.not_clearly_better(trials)
        eligible = [t for t in candidates(trials, recipe) if key_of(t) not in rejected]
        return best_of(eligible, self.studies.maximize)

    def _first_of_the_best(self, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """Return the first of the recipes' best trials that is not clearly worse than the best."""
        finalists = self._finalists(trials)
        best = best_of(finalists, self.studies.maximize)
        if best is None:
            return None
        return next(t for t in finalists if t is best or not self._is_better(t, best, trials))

    def _finalists(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the best trials of the recipes, in the order of the recipes, that may win."""
        winners = (self.winner(recipe, trials) for recipe in self.studies.by_recipe)
        return candidates([winner for winner in winners if winner is not None])

    def recipe_comparisons(
        self, trials: Sequence[FrozenTrial] | None = None
    ) -> dict[str, RecipeComparison]:
        """Return how the best trial of each other recipe compares with the winner, if that trial
        may win."""
        trials = self._all_trials(trials)
        winner = self.winner(None, trials)
        if winner is None:
            return {}
        others = [trial for trial in self._finalists(trials) if trial is not winner]
        return {recipe_of(trial): self._compared(winner, trial, trials) for trial in others}

    def _compared(
        self, winner: FrozenTrial, trial: FrozenTrial, trials: Sequence[FrozenTrial]
    ) -> RecipeComparison:
        pairs = ((winner, trial), (trial, winner))
        distinguishable = any(self._is_better(first, second, trials) for first, second in pairs)
        return RecipeComparison(
            key_of(trial), self._difference(winner, trial, trials), distinguishable
        )

    def not_clearly_better(self, trials: Sequence[FrozenTrial] | None = None) -> set[TrialKey]:
        """Return the keys of the trials that do not replace their recipe's own settings."""
        trials = self._all_trials(trials)
        rejected = set()
        for trial in candidates(trials):
            reference = self._reference(trial, trials)
            if reference is not None and not self._replaces(reference, trial, trials):
                rejected.add(key_of(trial))
        return rejected

    def reason(self) -> str:
        """Return how the winner compares with its recipe's own settings and with other recipes, and
        warnings if the differences are not significant."""
        trials = self._all_trials(None)
        winner = self.winner(None, trials)
        if winner is None:
            return ""
        return (
            self._comparison(winner, trials)
            + self._among_recipes(winner, trials)
            + self._disagreement(winner, trials)
        )

    def _comparison(self, winner: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
        """Describe how the winner compares with its recipe's own settings."""
        reference = self._reference(winner, trials)
        if reference is None:
            of = f" of the trials of {recipe_of(winner)}" if recipe_of(winner) else ""
            return f"Trial {key_of(winner)} has the best {self.objective}{of}."
        if reference is not winner:
            return (
                f"Trial {key_of(winner)} is clearly better than trial {key_of(reference)}, the "
                f"recipe's own settings: {self._described(reference, winner, trials)}."
            )
        recipe = recipe_of(winner)
        rest = [t for t in candidates(trials, recipe) if t is not winner]
        best = best_of(rest, self.studies.maximize)
        if best is None:
            return f"Trial {key_of(winner)} has the recipe's own settings."
        of = f" of {recipe}" if recipe else ""
        return (
            f"Trial {key_of(winner)} keeps the recipe's own settings: no other trial{of} is "
            f"clearly better (trial {key_of(best)}: {self._described(winner, best, trials)})."
            f"{self._warning(winner, trials)}"
        )

    def _among_recipes(self, winner: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
        """Describe which recipes differ significantly from the winner's; empty for one recipe."""
        by_key = {key_of(trial): trial for trial in trials}
        described = {
            distinct: [
                f"{recipe} (trial {each.trial}: "
                f"{self._described(winner, by_key[each.trial], trials)})"
                for recipe, each in self.recipe_comparisons(trials).items()
                if each.distinguishable == distinct
            ]
            for distinct in (True, False)
        }
        recipe, text = recipe_of(winner), ""
        if described[True]:
            text += f" Recipe {recipe} is better than {', '.join(described[True])}."
        if described[False]:
            text += (
                f" Warning: validation cannot tell recipe {recipe} from "
                f"{', '.join(described[False])}; of such recipes the first in the list wins."
            )
        return text

    def differences(
        self, recipe: str | None = None, trials: Sequence[FrozenTrial] | None = None
    ) -> dict[TrialKey, Difference]:
        """Return the differences in the objective from the recipe's own settings, of the other
        trials of each recipe (or of one) that can be resampled."""
        trials = self._all_trials(trials)
        differences = {}
        for trial in candidates(trials, recipe):
            reference = self._reference(trial, trials)
            if reference is not None and reference is not trial:
                difference = self._difference(reference, trial, trials)
                if difference is not None:
                    differences[key_of(trial)] = difference
        return differences

    def _warning(self, winner: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
        """Return a warning with the number of trials that do not differ significantly from the
        recipe's own settings, and the resolution of validation; empty if all differ."""
        differences = self.differences(recipe_of(winner), trials).values()
        intervals = [each.interval for each in differences if each.interval is not None]
        unclear = [each for each in intervals if each.low <= 0 <= each.high]
        if not unclear:
            return ""
        half = float(np.median([(each.high - each.low) / 2 for each in intervals]))
        return (
            f" Warning: validation cannot tell {len(unclear)} of {len(differences)} other trials "
            f"from the recipe's own; it resolves differences of about {half:.4f}."
        )

    def _disagreement(self, winner: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
        """Warn if the kinds of synthetic anomalies rank the trials differently."""
        name, recipe = self.objective.rpartition("/")[2], recipe_of(winner)
        groups = [(WITHIN, f" of {recipe}" if recipe else "", candidates(trials, recipe))]
        if recipe:
            groups.append((ACROSS, " of all recipes", candidates(trials)))
        warnings = ""
        for least, of, ranked in groups:
            measured = [e for trial in ranked if (e := self._measured(trial, trials)) is not None]
            agreed = agreement(measured, name)
            if agreed is not None and agreed < least:
                warnings += (
                    f" Warning: kinds of synthetic anomalies rank the trials{of} differently (mean "
                    f"rank correlation {agreed:.2f}; below {least}, validation says little about "
                    "real defects)."
                )
        return warnings

    def _all_trials(self, trials: Sequence[FrozenTrial] | None) -> Sequence[FrozenTrial]:
        trials = self.studies.trials() if trials is None else trials
        return [trial for trial in trials if key_of(trial) not in self.deleted]

    def _reference(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
        """Return the trial with the recipe's own settings, if it is a candidate."""
        alike = candidates(trials, recipe_of(trial))
        return next((each for each in alike if record_of(each).as_in_recipe), None)

    def _replaces(
        self, reference: FrozenTrial, trial: FrozenTrial, trials: Sequence[FrozenTrial]
    ) -> bool:
        """Return whether the trial is the reference, or clearly better than it."""
        return trial is reference or self._is_better(reference, trial, trials)

    def _is_better(
        self, reference: FrozenTrial, trial: FrozenTrial, trials: Sequence[FrozenTrial]
    ) -> bool:
        """Return whether the trial is clearly better than the reference; by value without
        evidence."""
        if best_of([reference, trial], self.studies.maximize) is reference:  # skip the bootstrap
            return False
        difference = self._difference(reference, trial, trials)
        if difference is None:
            return True
        if difference.interval is None:  # too few images, or no resample differs: no proof
            return False
        low, high = difference.interval
        margin = self._margin(reference, trials)
        return low > margin if self.studies.maximize else high < -margin

    def _margin(self, reference: FrozenTrial, trials: Sequence[FrozenTrial]) -> float:
        measured = self._measured(reference, trials) or {}
        synthetic = any(each.evidence.kinds is not None for each in measured.values())
        return MARGIN if synthetic else 0.0

    def _described(
        self, reference: FrozenTrial, trial: FrozenTrial, trials: Sequence[FrozenTrial]
    ) -> str:
        difference = self._difference(reference, trial, trials)
        if difference is None:
            return f"{trial.values[0] - reference.values[0]:+.4f} in {self.objective}"
        if difference.interval is None:
            return (
                f"{difference.value:+.4f} in {self.objective}, without a 95 % interval: "
                f"{difference.reason}"
            )
        low, high = difference.interval
        interval = f"[{low:+.4f}, {high:+.4f}]"
        return f"{difference.value:+.4f} in {self.objective}, 95 % interval {interval}"

    def _difference(
        self, reference: FrozenTrial, trial: FrozenTrial, trials: Sequence[FrozenTrial]
    ) -> Difference | None:
        """Return the trial's objective minus the reference's; None if it cannot be resampled."""
        key = key_of(reference), key_of(trial)
        if key not in self._differences:
            before, after = (self._measured(each, trials) for each in (reference, trial))
            difference = None
            if before is not None and after is not None and before.keys() == after.keys():
                *category, name = self.objective.split("/")[1:]
                differences = paired_differences(
                    before, after, names=[name], by_kind=True
                ).differences
                among = category[0] if category else MEAN if len(before) > 1 else next(iter(before))
                difference = differences.get(among, {}).get(name)
            self._differences[key] = difference
        return self._differences[key]

    def _measured(
        self, trial: FrozenTrial, trials: Sequence[FrozenTrial]
    ) -> Mapping[str, CategoryEvidence] | None:
        same_as = record_of(trial).same_as
        key = key_of(trial) if same_as is None else TrialKey(recipe_of(trial), same_as)
        if key not in self._evidence:
            runs = {key_of(each): record_of(each).run_id or "none" for each in trials}
            try:
                record = self.tracker.find(runs.get(key, "none"))
                self._evidence[key] = load_evidence(record.artifact(VALIDATION_EVIDENCE))
            except UserError:
                self._evidence[key] = None
        return self._evidence[key]
