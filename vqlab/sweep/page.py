"""The interactive page of a study: Optuna's own charts and a table that sorts, in one HTML file.

One file with plotly.js in it, because MLflow shows an HTML artifact in a sandboxed frame that can
load neither the files beside it nor anything of its own origin.
"""

from __future__ import annotations

import contextlib
import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from vqlab.plots import style
from vqlab.plots.curves import hexed
from vqlab.plots.trials import ON_REQUEST, Trial, best, colours, front
from vqlab.run import short_names
from vqlab.sweep.shown import Shown, plain
from vqlab.sweep.views import quiet, view

if TYPE_CHECKING:
    import plotly.graph_objects as go

Pairs = Mapping[str, Sequence[tuple[int, float, float]]]
Charts = Iterator[tuple[str, "go.Figure"]]
_BUTTONS = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
"""No button that would send a chart to plotly's servers."""

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#1f2933;margin:1.2rem 2rem;max-width:1500px}
h1{font-size:1.35rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .3rem}nav a{margin-right:1rem}
h3{font-size:.92rem;font-weight:600;color:#6b7785;margin:.8rem 0 0}p{margin:.3rem 0;color:#6b7785}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;white-space:nowrap}
th{cursor:pointer;text-align:left;border-bottom:2px solid #cdd3da;padding:.25rem .7rem .25rem 0}
td{border-bottom:1px solid #e7ebef;padding:.2rem .7rem .2rem 0;font-variant-numeric:tabular-nums}
tr.best td{background:#fff1dd}tr.other td{color:#8a95a1}
"""
_SORT = """
document.querySelectorAll("th").forEach((head,column)=>head.addEventListener("click",()=>{
 const body=document.querySelector("tbody"),up=head.dataset.up!=="1";head.dataset.up=up?"1":"0";
 const key=row=>row.cells[column].textContent,number=text=>text===""?NaN:Number(text);
 [...body.rows].sort((a,b)=>{const x=key(a),y=key(b),m=number(x),n=number(y);
  if(x===""||y==="")return (x==="")-(y==="");
  const order=isNaN(m)||isNaN(n)?x.localeCompare(y):m-n;return up?order:-order})
 .forEach(row=>body.append(row))}));
"""


def write_page(
    path: Path,
    shown: Shown,
    evaluator: str,
    meaning: str,
    shares: Mapping[str, Mapping[str, float]],
    pairs: Pairs,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    why: Mapping[int, str],
) -> None:
    """Write charts under headings and the table of trials; what would say nothing is left out."""
    from plotly.offline import get_plotlyjs

    sections: dict[str, tuple[str, Charts]] = {
        "Optimisation history": ("", _history(shown)),
        f"Importance of settings ({evaluator})": (meaning, _importances(shares)),
        "Parallel coordinates": ("", _parallel(shown)),
        "Slices": ("Later trials are darker.", _slices(shown)),
        "Intermediate values": ("", _intermediate(shown)),
        "Pareto front": ("Orange: no trial is better in all.", _pareto(shown)),
        "Validation and test": (
            f"Below the diagonal test is lower. {_why_tested(why)}",
            _agreement(pairs, why),
        ),
    }
    parts: list[str] = []
    links: list[str] = []
    with quiet(), _plain_charts():
        for number, (heading, (words, charts)) in enumerate(sections.items()):
            drawn = list(_drawn(charts, f"chart-{number}"))
            if drawn:
                links.append(f'<a href="#s{number}">{html.escape(heading)}</a>')
                parts += [f'<h2 id="s{number}">{html.escape(heading)}</h2>', _paragraph(words)]
                parts += drawn
    links.append('<a href="#trials">Trials</a>')
    title = html.escape(shown.name)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body><h1>{title}</h1>\n{_summary(shown)}\n<nav>{' '.join(links)}</nav>\n"
        + "\n".join(part for part in parts if part)
        + f"\n{_table(shown, columns, rows)}\n<script>{_SORT}</script>\n</body></html>\n",
        encoding="utf-8",
    )


@contextlib.contextmanager
def _plain_charts() -> Iterator[None]:
    """Plotly's white look; its default one is seven kilobytes in each chart, and slow to make."""
    import plotly.io

    before = plotly.io.templates.default
    plotly.io.templates.default = "none"
    try:
        yield
    finally:
        plotly.io.templates.default = before


def _drawn(charts: Charts, name: str) -> Iterable[str]:
    for number, (heading, figure) in enumerate(charts):
        figure.update_layout(title=None, margin={"t": 30, "b": 90, "l": 70, "r": 20})
        yield f"<h3>{html.escape(heading)}</h3>" if heading else ""
        body = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"{name}-{number}",
            config=_BUTTONS,
        )
        yield f'<div class="wide">{body}</div>'


def _history(shown: Shown) -> Charts:
    from optuna.visualization import plot_optimization_history

    recipes = [r for r in shown.recipes if any(t.values for t in shown.trials if t.recipe == r)]
    for goal in shown.goals if recipes else ():
        studies = [view(shown, recipe, [goal]) for recipe in recipes]
        figure = plot_optimization_history(studies, target_name=goal.name)
        for trace in figure.data:  # "<goal> of <recipe>" and "Best Value of <recipe>"
            recipe = str(trace.name).rpartition(" of ")[2] if len(recipes) > 1 else recipes[0]
            look = {"color": colours(shown.trials).get(recipe)}
            trace.update({"line": look | {"shape": "hv"}} if trace.mode == "lines" else {})
            trace.update({"marker": look} if trace.name != "Infeasible Trial" else {})
        yield goal.label, figure.update_yaxes(title=goal.name)


def _importances(shares: Mapping[str, Mapping[str, float]]) -> Charts:
    import plotly.graph_objects as go

    for name, own in shares.items():
        labels = [f"{share:.2f}" for share in own.values()]
        bars = go.Bar(
            x=list(own.values())[::-1], y=list(own)[::-1], text=labels[::-1], orientation="h",
            marker_color=hexed(style.BLUE),
        )  # fmt: skip
        figure = go.Figure(bars).update_layout(height=120 + 26 * len(own))
        figure.update_xaxes(title="share", rangemode="tozero")
        yield name, figure.update_yaxes(automargin=True)


def _varied(shown: Shown) -> Iterator[tuple[str, list[str]]]:
    """Recipes of at least two complete trials, and the settings in which these differ."""
    for recipe in shown.recipes:
        done = [t for t in shown.trials if t.recipe == recipe and t.values]
        names = [setting.name for setting in shown.settings[recipe]]
        if len(done) > 1 and names:
            yield recipe, names


def _parallel(shown: Shown) -> Charts:
    from optuna.visualization import plot_parallel_coordinate

    for recipe, names in _varied(shown):
        study = view(shown, recipe, shown.goals, found=True)
        if len(shown.goals) > 1:
            study.set_metric_names([goal.name for goal in shown.goals])
            yield recipe, plot_parallel_coordinate(study, params=names)
        else:
            name = shown.goals[0].name
            yield recipe, plot_parallel_coordinate(study, params=names, target_name=name)


def _slices(shown: Shown) -> Charts:
    from optuna.visualization import plot_slice

    for goal in shown.goals:
        for recipe, names in _varied(shown):
            study = view(shown, recipe, [goal], found=True)
            figure = plot_slice(study, params=names, target_name=goal.name)
            heading = " · ".join(part for part in (recipe, goal.label) if part)
            yield heading, figure.update_layout(height=380)


def _intermediate(shown: Shown) -> Charts:
    from optuna.visualization import plot_intermediate_values

    if any(trial.curve for trial in shown.trials):
        figure = plot_intermediate_values(view(shown, None, shown.goals[:1]))
        for trace in figure.data:
            number = int(str(trace.name).removeprefix("Trial"))
            colour = colours(shown.trials)[shown.trials[number].recipe]
            trace.update(line={"color": colour, "width": 1}, marker={"color": colour, "size": 4})
        yield "", figure.update_xaxes(title="epoch").update_yaxes(title=shown.goals[0].name)


def _pareto(shown: Shown) -> Charts:
    from optuna.visualization import plot_pareto_front

    if len(shown.goals) < 2 or not any(trial.values for trial in shown.trials):
        return
    study = view(shown, None, shown.goals)
    for place, goal in enumerate(shown.goals[1:], 1):

        def both(trial: FrozenTrial, place: int = place) -> tuple[float, float]:
            return trial.values[place], trial.values[0]

        names = [goal.label, shown.goals[0].label]
        figure = plot_pareto_front(study, targets=both, target_names=names)
        for trace in figure.data:  # Optuna's own colours leave an early trial of the front white
            if "Best Trial" in str(trace.hovertemplate):
                trace.update(marker={"color": hexed(style.AMBER), "size": 11, "showscale": False})
        yield "", figure


def _why_tested(why: Mapping[int, str]) -> str:
    """`Trial 3: winner. Trial 1: on request, which decides nothing.`"""
    words = {ON_REQUEST: f"{ON_REQUEST}, which decides nothing"}
    return " ".join(f"Trial {number}: {words.get(w, w)}." for number, w in sorted(why.items()))


def _agreement(pairs: Pairs, why: Mapping[int, str]) -> Charts:
    import plotly.graph_objects as go

    if not pairs:
        return
    figure = go.Figure()
    for name, own in pairs.items():
        numbers, validation, test = zip(*own, strict=True)
        told = {number: f" ({why[number]})" if number in why else "" for number in numbers}
        marks = ["circle-open" if why.get(n) == ON_REQUEST else "circle" for n in numbers]
        figure.add_scatter(
            x=validation, y=test, text=[f"trial {n}{told[n]}" for n in numbers], mode="markers",
            name=name, marker={"symbol": marks, "size": 9},
        )  # fmt: skip
    ends = [value for own in pairs.values() for _, *both in own for value in both]
    figure.add_scatter(
        x=[min(ends), max(ends)], y=[min(ends), max(ends)], mode="lines", name="equal",
        line={"color": "#6b7785", "width": 1},
    )  # fmt: skip
    figure.update_xaxes(title="validation").update_yaxes(title="test")
    yield "", figure.update_layout(height=520, width=700)


def _summary(shown: Shown) -> str:
    counts = Counter(trial.state.lower().replace("fail", "failed") for trial in shown.trials)
    told = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none yet"
    lines = [f"Trials: {told}. Objective: {'; '.join(goal.label for goal in shown.goals)}."]
    chosen = _chosen(shown)
    for trial in chosen[:1] if len(shown.goals) == 1 else ():
        settings = ", ".join(f"{name} {_text(value)}" for name, value in trial.settings.items())
        of = f" ({trial.recipe})" if trial.recipe else ""
        lines.append(f"Best: trial {trial.number}{of}, {trial.values[0]:.6g}: {settings}.")
    if len(shown.goals) > 1 and chosen:
        numbers = ", ".join(str(trial.number) for trial in chosen)
        lines.append(f"Pareto front: trials {numbers}.")
    return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)


def _chosen(shown: Shown) -> list[Trial]:
    """The best trial; of several objectives those on the front."""
    if len(shown.goals) > 1:
        return front(shown.trials, shown.goals)
    winner = best(shown.trials, shown.goals[0], 0)
    return [winner] if winner else []


def _table(shown: Shown, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    known = {path for names in shown.names.values() for path in names}
    short = short_names(name for name in columns if name in known)
    heads = "".join(f"<th>{html.escape(short.get(name, name))}</th>" for name in columns)
    chosen = {trial.number for trial in _chosen(shown)}
    body = []
    for trial, row in zip(shown.trials, rows, strict=True):
        look = "best" if trial.number in chosen else "" if trial.state == "COMPLETE" else "other"
        cells = "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row)
        body.append(f'<tr class="{look}">{cells}</tr>')
    return (
        '<h2 id="trials">Trials</h2>\n<p>A click on a heading sorts. All digits: trials.csv.</p>\n'
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def _text(value: Any) -> str:
    value = plain(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _paragraph(words: str) -> str:
    return f"<p>{html.escape(words)}</p>" if words else ""
