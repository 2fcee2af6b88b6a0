"""Importance of settings for reaching the top 10 % of trials (PED-ANOVA)."""

from __future__ import annotations

import math

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from vqlab.sweep.report.copies import quiet, study_copy
from vqlab.sweep.report.study_data import StudyData

EVALUATOR = "PED-ANOVA"
MEANING = "Importance for reaching the top 10 % of trials; not a share of the variance."
_MIN_TRIALS = 4
_STABLE = 5
"""Number of trials in the top 10 % from which PED-ANOVA is stable according to its authors."""


def importances(data: StudyData) -> dict[str, dict[str, float]]:
    """Return the share of each setting (they sum to 1) by objective and recipe.

    The title of each group states its number of trials. Groups of fewer than four complete trials,
    or in which no setting matters, are omitted.
    """
    groups = {}
    for goal in data.goals:
        for recipe in data.recipes:
            count = sum(bool(t.values) and t.key.recipe == recipe for t in data.trials)
            if count < _MIN_TRIALS:
                continue
            shares = _shares(study_copy(data, recipe, [goal]))
            if shares:
                top = math.ceil(0.1 * count)
                basis = f"best {top} of {count} trials"
                basis += ": too few to be reliable" if top < _STABLE else ""
                groups[" · ".join(part for part in (recipe, goal.name, basis) if part)] = shares
    return groups


def _shares(study: optuna.Study) -> dict[str, float]:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    values: dict[str, set[object]] = {}
    for trial in complete:
        for name, value in trial.params.items():
            values.setdefault(name, set()).add(value)
    names = [name for name, distinct in values.items() if len(distinct) > 1]
    if len({trial.value for trial in complete}) < 2 or len(names) < 2:
        return {}
    with quiet():
        # With normalize=True all settings would be equally important if none matters.
        shares = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), params=names, normalize=False
        )
    total = sum(shares.values())
    if not (total > 0 and math.isfinite(total)):
        return {}
    return {name: float(share / total) for name, share in shares.items()}
