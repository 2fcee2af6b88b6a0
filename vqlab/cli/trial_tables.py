"""Tables of a sweep: trials, trials scored on test, recipes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

from vqlab.cli.fit_width import Column, FittedTable, Row, Widest
from vqlab.cli.progress import settings_text
from vqlab.metrics import PRIMARY, metric_title

if TYPE_CHECKING:
    from vqlab.sweep import SweepResult, TrialOnTest

_BEST = "bold green"


def trials_table(result: SweepResult) -> FittedTable:
    """Return a row per trial of a sweep: state, value, seconds, settings."""
    columns = [
        Column("trial"), Column("state"), Column(_objective(result)), Column("s"),
        Column("settings", text=True),
    ]  # fmt: skip
    rows = []
    for trial in result.trials:
        value = "–" if trial.value is None else f"{trial.value:.4f}"
        seconds = "–" if trial.seconds is None else f"{trial.seconds:.0f}"
        text = settings_text(trial.params) + (f" ({trial.reason})" if trial.reason else "")
        style = _BEST if trial.key == result.best.key else ""
        rows.append(Row([str(trial.key), trial.state, value, seconds, text], style))
    return FittedTable(f"study {result.study}", columns, rows)


def tested_table(result: SweepResult) -> Widest:
    """Return validation and test metrics of every trial scored on test, and why it was scored."""
    names = list(dict.fromkeys((result.objective.partition("/")[2], *PRIMARY)))
    columns = [Column("trial", text=True), Column("for", text=True), Column("run")]
    columns += [Column(metric_title(name)) for name in names]
    title = "trials scored on test: validation → test"
    forms = []
    for between, digits in ((" → ", 4), ("\n→ ", 4), ("\n→ ", 3)):
        rows = []
        for trial in result.tested:
            style = _BEST if trial.key == result.best.key else ""
            cells = [
                str(trial.key),
                trial.why,
                trial.run_id[:8],
                *_pairs(trial, names, between, digits),
            ]
            rows.append(Row(cells, style))
        forms.append(FittedTable(title, columns, rows))
    return Widest(forms)


def _pairs(trial: TrialOnTest, names: Sequence[str], between: str, digits: int) -> list[str]:
    """Return the validation and the test value of each metric as one text."""
    pairs = ((trial.validation.get(f"validation/{n}"), trial.test.get(f"test/{n}")) for n in names)
    return [between.join("–" if v is None else f"{v:.{digits}f}" for v in pair) for pair in pairs]


def recipes_table(result: SweepResult) -> FittedTable:
    """Return a row per recipe of a sweep: numbers of trials, best trial, seconds per trial, and its
    difference from the winner on validation."""
    columns = [Column("recipe", text=True), *map(Column, ("trials", "complete"))]
    columns += map(Column, (_objective(result), "trial", "run", "s per trial"))
    columns.append(Column("difference from the winner", text=True))
    rows = []
    for recipe, best in result.recipes.items():
        trials = [trial for trial in result.trials if trial.recipe == recipe]
        complete = [trial for trial in trials if trial.state == "COMPLETE"]
        seconds = [trial.seconds for trial in complete if trial.seconds is not None]
        cells = ["–", "–", "–", "–"]
        if best is not None:
            cells = [f"{best.value:.4f}", str(best.key), str(best.run_id)[:8]]
            cells.append(f"{mean(seconds):.0f}" if seconds else "–")
        compared = result.comparisons.get(recipe)
        cells.append(f"{compared.difference_text} {compared.verdict}".strip() if compared else "–")
        style = _BEST if recipe == result.best.recipe else ""
        rows.append(Row([recipe, str(len(trials)), str(len(complete)), *cells], style))
    return FittedTable("recipes, each with its best trial on validation", columns, rows)


def _objective(result: SweepResult) -> str:
    return metric_title(result.objective.partition("/")[2])
