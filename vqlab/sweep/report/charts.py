"""Charts of a sweep as plotly figures, most of them from `optuna.visualization`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from optuna.trial import FrozenTrial

from vqlab.metrics import Difference, lower_is_better
from vqlab.sweep.events import TrialKey
from vqlab.sweep.report.copies import study_copy, values_copy
from vqlab.sweep.report.study_data import StudyData
from vqlab.sweep.study.record import recipe_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

Charts: TypeAlias = "Iterator[tuple[str, go.Figure]]"
"""Titles and figures, without empty charts. Figures with the same title form a group.
`layout.meta["min_width"]`: minimum width of a figure in pixels."""
ON_REQUEST = "on request"
"""Why a trial other than the winner was scored on test."""
COLOURS = ("#2b63ad", "#2f855a", "#7448a8", "#0c858f", "#6b7785")
"""Colours of the recipes, in the order of their names."""
BEST = "#d9730d"
GREY = "#7d8894"
SCALE = [[0, "#7ba3dd"], [1, BEST]]
"""Colour scale that is legible on white and on black."""
_STATES = {
    "COMPLETE": COLOURS[1], "PRUNED": BEST, "FAIL": "#c53030", "RUNNING": COLOURS[0],
    "WAITING": GREY,
}  # fmt: skip
_SYMBOLS = ("circle", "square", "diamond")


def history(data: StudyData) -> Charts:
    """Yield objective by trial, best value so far, pruned trials, trials with own settings."""
    from optuna.visualization import plot_optimization_history

    complete = {t.key.recipe for t in data.trials if t.values}
    recipes = [recipe for recipe in data.recipes if recipe in complete]
    for index, goal in enumerate(data.goals if recipes else ()):
        studies = [study_copy(data, recipe, [goal]) for recipe in recipes]
        figure = plot_optimization_history(studies, target_name=goal.name)
        for trace in figure.data:  # named "<goal> of <recipe>" and "Best Value of <recipe>"
            recipe = str(trace.name).rpartition(" of ")[2] if len(recipes) > 1 else recipes[0]
            if len(recipes) > 1:
                trace.update(name=recipe, showlegend=trace.mode == "markers")
            colour = {"color": _colours(data).get(recipe)}
            trace.update({"line": colour | {"shape": "hv"}} if trace.mode == "lines" else {})
            trace.update({"marker": colour} if trace.name != "Infeasible Trial" else {})
        if index == 0:
            _add_pruned(figure, data)
        defaults = [t for t in data.trials if t.values and t.as_recipe]
        if defaults:
            figure.add_scatter(
                x=[trial.key.number for trial in defaults],
                y=[trial.values[index] for trial in defaults],
                text=[trial.key.recipe or "recipe" for trial in defaults],
                mode="markers", name="the recipe's own settings",
                marker={"symbol": "circle-open", "size": 14, "color": BEST, "line": {"width": 2}},
            )  # fmt: skip
        for trial in data.best if len(data.goals) == 1 else ():
            figure.add_scatter(
                x=[trial.key.number], y=[trial.values[index]], mode="markers", name="best trial",
                marker={"symbol": "star", "size": 13, "color": BEST},
            )  # fmt: skip
        yield goal.label, figure.update_yaxes(title=goal.name)


def _add_pruned(figure: go.Figure, data: StudyData) -> None:
    pruned = [t for t in data.trials if t.state == "PRUNED" and t.curve]
    if pruned:
        last = [max(trial.curve) for trial in pruned]
        figure.add_scatter(
            x=[trial.key.number for trial in pruned],
            y=[trial.curve[epoch] for trial, epoch in zip(pruned, last, strict=True)],
            text=[f"trial {t.key}, epoch {e}" for t, e in zip(pruned, last, strict=True)],
            mode="markers", name="pruned, last reported value",
            marker={"symbol": "x", "color": GREY, "size": 7},
        )  # fmt: skip


def importance_bars(shares: Mapping[str, Mapping[str, float]]) -> Charts:
    """Yield a bar chart for each group of `importances`."""
    import plotly.graph_objects as go

    for title, values in shares.items():
        ordered = dict(reversed(list(values.items())))
        bars = go.Bar(
            x=list(ordered.values()), y=list(ordered), orientation="h", marker_color=COLOURS[0],
            text=[f"{share:.2f}" for share in ordered.values()],
        )  # fmt: skip
        figure = go.Figure(bars).update_layout(height=120 + 26 * len(values))
        figure.update_xaxes(title="share", rangemode="tozero")
        yield title, figure.update_yaxes(automargin=True)


def parallel_coordinates(data: StudyData) -> Charts:
    """Yield settings and objectives of the complete trials of each recipe."""
    from optuna.visualization import plot_parallel_coordinate
    from plotly.colors import sample_colorscale

    for recipe, names in data.varied.items():
        if not names:
            continue
        study = study_copy(data, recipe, data.goals, searched=True)
        name = data.goals[0].name
        if len(data.goals) > 1:
            study.set_metric_names([goal.name for goal in data.goals])
            name = "Objective Value"  # Optuna's default, not shown
        figure = plot_parallel_coordinate(study, params=names, target_name=name)
        for line in figure.select_traces({"mode": "lines", "showlegend": False}):
            value = line.y[0] if data.goals[0].maximize else 1 - line.y[0]  # the first objective
            line.update(line_color=sample_colorscale(SCALE, value)[0], opacity=0.8)
        figure.update_traces(marker_showscale=False, selector={"mode": "markers"})
        figure.update_annotations(font_color=GREY)
        margin = {"t": 30, "b": 90, "l": 60, "r": 60}
        width = 90 * (len(names) + len(data.goals))
        yield recipe, figure.update_layout(height=370, margin=margin, meta={"min_width": width})


def slices(data: StudyData) -> Charts:
    """Yield each objective by each setting, for each recipe."""
    from optuna.visualization import plot_slice

    for goal in data.goals:
        for recipe, names in data.varied.items():
            study = study_copy(data, recipe, [goal], searched=True)
            title = " · ".join(part for part in (recipe, goal.label) if part)
            for name in names:
                figure = plot_slice(study, params=[name], target_name=goal.name)
                marker = {"showscale": False, "colorscale": SCALE, "line": {"width": 0}, "size": 8}
                yield title, figure.update_traces(marker=marker).update_layout(height=300)


def intermediate_values(data: StudyData) -> Charts:
    """Yield reported values by epoch of the trials of each recipe."""
    from optuna.visualization import plot_intermediate_values

    for recipe in dict.fromkeys(t.key.recipe for t in data.trials if t.curve):
        figure = plot_intermediate_values(study_copy(data, recipe, data.goals[:1]))
        colour = _colours(data)[recipe]
        figure.update_traces(
            line={"color": colour, "width": 1}, marker={"color": colour, "size": 4}
        )
        yield recipe, figure.update_xaxes(title="epoch").update_yaxes(title=data.goals[0].name)


def pareto(data: StudyData) -> Charts:
    """Yield each further objective against the first, for the trials of all recipes."""
    from optuna.visualization import plot_pareto_front

    if len(data.goals) < 2 or not any(trial.values for trial in data.trials):
        return
    study = values_copy(data)
    for index, goal in enumerate(data.goals[1:], 1):

        def targets(trial: FrozenTrial, index: int = index) -> tuple[float, float]:
            return trial.values[index], trial.values[0]

        names = [goal.label, data.goals[0].label]
        figure = plot_pareto_front(study, targets=targets, target_names=names)
        for trace in figure.data:  # Optuna colours an early trial of the front white
            if "Best Trial" in str(trace.hovertemplate):
                trace.update(marker={"color": BEST, "size": 11, "showscale": False})
        yield "", figure


def timeline(data: StudyData) -> Charts:
    """Yield time and final state of the trials of each recipe."""
    from optuna.visualization import plot_timeline

    for recipe in dict.fromkeys(recipe_of(t) for t in data.raw if t.datetime_start):
        figure = plot_timeline(data.studies[recipe])
        for bars in figure.data:
            bars.update(marker_color=_STATES.get(str(bars.name)), width=0.7)
        yield recipe, figure.update_xaxes(title="")


def differences(data: StudyData, differences: Mapping[TrialKey, Difference]) -> Charts:
    """Yield the differences of the trials of each recipe from its own settings, in the first
    objective."""
    import plotly.graph_objects as go

    for recipe in data.recipes:
        of_recipe = [(k, d) for k, d in differences.items() if k.recipe == recipe and d.interval]
        rows = sorted(of_recipe, key=lambda row: row[1].value)
        if not rows:
            continue
        intervals = [each.interval or (each.value, each.value) for _, each in rows]
        figure = go.Figure()
        for (key, each), (low, high) in zip(rows, intervals, strict=True):
            colour = GREY if low <= 0 <= high else _colours(data)[recipe]
            error = {"array": [high - each.value], "arrayminus": [each.value - low]}
            figure.add_scatter(
                x=[each.value], y=[f"trial {key.number}"], mode="markers", showlegend=False,
                error_x=error, marker={"color": colour, "size": 8}, name="",
            )  # fmt: skip
        figure.add_vline(x=0, line={"color": GREY, "width": 1})
        figure.update_xaxes(title=f"difference in {data.goals[0].name}")
        figure.update_yaxes(type="category", automargin=True)
        yield recipe, figure.update_layout(height=120 + 22 * len(rows))


def test_against_validation(
    pairs: Mapping[str, Sequence[tuple[TrialKey, float, float]]], purposes: Mapping[TrialKey, str]
) -> Charts:
    """Yield test against validation metrics of the tested trials, with the diagonal."""
    import plotly.graph_objects as go

    if not pairs:
        return
    figure = go.Figure()
    for index, (name, points) in enumerate(pairs.items()):
        keys, validation, test = zip(*points, strict=True)
        symbol = _SYMBOLS[index // 10 % len(_SYMBOLS)]  # plotly has ten colours
        why = {key: f" ({purposes[key]})" if key in purposes else "" for key in keys}
        symbols = [symbol + "-open" * (purposes.get(key) == ON_REQUEST) for key in keys]
        figure.add_scatter(
            x=validation, y=test, text=[f"trial {key}{why[key]}" for key in keys], mode="markers",
            name=with_direction(name), marker={"symbol": symbols, "size": 9},
        )  # fmt: skip
    values = [value for points in pairs.values() for _, *both in points for value in both]
    ends = [min(values), max(values)]
    line = {"color": GREY, "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", name="equal", line=line)
    figure.update_xaxes(title="validation").update_yaxes(title="test")
    yield "", figure.update_layout(height=520)


def with_direction(name: str) -> str:
    """Return the name of a test metric, marked where lower is better."""
    return f"{name} ↓" if lower_is_better(f"test/{name}") else name


def _colours(data: StudyData) -> dict[str, str]:
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(data.recipes)}
