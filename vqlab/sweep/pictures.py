"""What a study shows of itself: pictures, an interactive page, a table of its trials."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from vqlab.metrics import OBJECTIVES, PRIMARY
from vqlab.plots import save_figure, slices, trials
from vqlab.sweep.page import write_page
from vqlab.sweep.reuse import REUSED, SAVED
from vqlab.sweep.shown import Shown, settings_of
from vqlab.sweep.study import DEAD, REASON, RETRY_OF, RUN_ID, recipe_of
from vqlab.sweep.views import view

VALIDATION = "validation"
"""Attribute of a trial: its validation metrics."""
EVALUATOR = "PED-ANOVA"
MEANING = "share of what sets the best tenth of trials apart from all (no share of the variance)"
_ENOUGH = 4
"""Complete trials from which importances say anything."""
_STEADY = 5
"""Trials in the best tenth from which PED-ANOVA's authors call its figures stable."""

Tested = Mapping[int, Mapping[str, float]]


def draw_study(
    study: optuna.Study,
    objectives: Sequence[str],
    folder: Path,
    tested: Tested | None = None,
    why: Mapping[int, str] | None = None,
    not_clearly_better: Container[int] = (),
) -> list[Path]:
    """Write pictures (PNG), `study.html` (interactive, needs no network) and `trials.csv`.

    objectives: names of the study's values, in their order. tested: test metrics of the trials
    that were scored on test, by trial number; why: for what each was (`winner`, `on request`).
    not_clearly_better: numbers of trials that may not win. A picture that would say nothing is left
    out, and an earlier one of that name removed. Returns what was written.
    """
    shown = Shown(study, objectives, not_clearly_better)
    folder.mkdir(parents=True, exist_ok=True)
    shares = importances(shown)
    tested, why = tested or {}, why or {}
    pairs = agreement(shown, tested)
    varied = shown.settings
    figures = {
        "history": trials.history_figure(shown.name, shown.goals, shown.trials),
        "importances": trials.importances_figure(shown.name, EVALUATOR, MEANING, shares),
        "parallel": slices.parallel_figure(shown.name, shown.goals, shown.trials, varied),
        "slices": slices.slices_figure(shown.name, shown.goals, shown.trials, varied),
        "intermediate": trials.curves_figure(shown.name, shown.goals[0], shown.trials),
        "pareto": trials.pareto_figure(shown.name, shown.goals, shown.trials),
        "validation_and_test": trials.agreement_figure(shown.name, pairs, why),
    }
    written = [path for name, figure in figures.items() for path in _saved(folder, name, figure)]
    table = folder / "trials.csv"
    columns, rows = trial_table(shown, tested, why)
    with table.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    page = folder / "study.html"
    write_page(page, shown, EVALUATOR, MEANING, shares, pairs, columns, rows, why)
    return [*written, table, page]


def _saved(folder: Path, name: str, figure: Any) -> list[Path]:
    path = folder / f"{name}.png"
    if figure is None:
        path.unlink(missing_ok=True)
        return []
    save_figure(figure, path)
    return [path]


def importances(shown: Shown) -> dict[str, dict[str, float]]:
    """Each setting's share (PED-ANOVA) by group, a group being an objective and a recipe.

    A group's name says how many trials its shares stand on. Groups of too few trials, or in which
    no setting matters, are left out.
    """
    groups = {}
    for goal in shown.goals:
        for recipe in shown.recipes:
            done = [t for t in shown.trials if t.values and t.recipe == recipe]
            shares = _shares(view(shown, recipe, [goal])) if len(done) >= _ENOUGH else {}
            if shares:
                top = math.ceil(0.1 * len(done))
                told = f"best {top} of {len(done)} trials"
                told += ": too few for more than a hint" if top < _STEADY else ""
                name = " · ".join(part for part in (recipe, goal.name, told) if part)
                groups[name] = shares
    return groups


def _shares(study: optuna.Study) -> dict[str, float]:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    drawn = {
        name: len({trial.params[name] for trial in done if name in trial.params})
        for trial in done
        for name in trial.params
    }
    names = [name for name, count in drawn.items() if count > 1]
    if len({trial.value for trial in done}) < 2 or len(names) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator()
        # Optuna's own normalisation would call all settings equal where none matters.
        found = get_param_importances(study, evaluator=evaluator, params=names, normalize=False)
    total = sum(found.values())
    if not (total > 0 and math.isfinite(total)):
        return {}
    return {name: float(share / total) for name, share in found.items()}


def agreement(shown: Shown, tested: Tested) -> dict[str, list[tuple[int, float, float]]]:
    """By metric (trial, validation value, test value) of the trials that were scored on test.

    The study's objectives come first, then the other metrics that a sweep may look at.
    """
    own = [name.partition("/")[2] for name in shown.objectives]
    pairs: dict[str, list[tuple[int, float, float]]] = {name: [] for name in [*own, *OBJECTIVES]}
    for number, metrics in sorted(tested.items()):
        if not 0 <= number < len(shown.raw):
            continue
        test = {key.removeprefix("test/"): value for key, value in metrics.items()}
        for key, value in _validation(shown, shown.raw[number]).items():
            name = key.removeprefix("validation/")
            if name in pairs and name in test:
                pairs[name].append((number, float(value), float(test[name])))
    return {name: found for name, found in pairs.items() if found}


def _validation(shown: Shown, trial: FrozenTrial) -> dict[str, float]:
    metrics = {k: v for k, v in trial.user_attrs.get(VALIDATION, {}).items() if v is not None}
    if trial.state == TrialState.COMPLETE:
        metrics |= dict(zip(shown.objectives, trial.values, strict=True))
    return {key: value for key, value in metrics.items() if key.startswith("validation/")}


def trial_table(
    shown: Shown, tested: Tested, why: Mapping[int, str]
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table of trials; empty where a trial has no such thing."""
    settings = list(dict.fromkeys(name for trial in shown.raw for name in settings_of(trial)))
    several = shown.recipes != [""] and bool(shown.recipes)
    columns = ["trial", *(["recipe"] if several else []), "state", *shown.objectives]
    on_test = _measured(shown, tested)
    columns += [*on_test, *(["tested"] if why else []), *settings]
    columns += ["seconds", "reason", "retry_of", "reused", "seconds_saved", "run_id"]
    rows = []
    for trial in shown.raw:
        own = tested.get(trial.number, {})
        cells = [own.get(name, "") for name in on_test]
        cells += [why.get(trial.number, "")] if why else []
        rows.append(_row(shown, trial, cells, settings, several))
    return columns, rows


def _measured(shown: Shown, tested: Tested) -> list[str]:
    """The test metrics that stand in the table: those of the objectives and the headlines."""
    wanted = [f"test/{name.partition('/')[2]}" for name in shown.objectives]
    wanted += [f"test/{name}" for name in PRIMARY]
    there = {name for metrics in tested.values() for name in metrics}
    return [name for name in dict.fromkeys(wanted) if name in there]


def _row(
    shown: Shown,
    trial: FrozenTrial,
    on_test: Sequence[Any],
    settings: Sequence[str],
    several: bool,
) -> list[Any]:
    attrs, own = trial.user_attrs, settings_of(trial)
    done = trial.state == TrialState.COMPLETE
    values = list(trial.values) if done else [""] * len(shown.objectives)
    seconds = f"{trial.duration.total_seconds():.2f}" if trial.duration else ""
    return [
        trial.number,
        *([recipe_of(trial)] if several else []),
        trial.state.name,
        *values,
        *on_test,
        *(_cell(own[name]) if name in own else "" for name in settings),
        seconds,
        attrs.get(REASON) or attrs.get(DEAD, ""),
        attrs.get(RETRY_OF, ""),
        attrs.get(REUSED, ""),
        attrs.get(SAVED, ""),
        attrs.get(RUN_ID, ""),
    ]


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value
