"""The top of the report of a sweep."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Mapping

from vqlab.html_page import paragraph, picture
from vqlab.metrics import METRICS
from vqlab.sweep.events import RecipeComparison
from vqlab.sweep.report import charts
from vqlab.sweep.report.context import ReportContext
from vqlab.sweep.report.study_data import StudyData, value_text
from vqlab.sweep.study.record import record_of


def summary(data: StudyData, context: ReportContext) -> str:
    """Return the top of the page: objective, best trial, recipes, test metrics, pictures."""
    states = Counter(trial.state.lower().replace("fail", "failed") for trial in data.trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "none yet"
    lines = [
        f"Dataset: {context.dataset}." if context.dataset else "",
        f"Objective: {'; '.join(goal.label for goal in data.goals)}.",
        f"Trials: {counts}.",
    ]
    if len(data.goals) > 1 and data.best:
        lines.append(f"Pareto front: trials {', '.join(str(t.key) for t in data.best)}.")
    for trial in data.best if len(data.goals) == 1 else ():
        settings = ", ".join(
            f"{name} {value_text(value)}" for name, value in trial.settings.items()
        )
        value = f"{trial.values[0]:.6g}"
        lines.append(f"Best: trial {trial.key}, {value}: {settings or 'no settings'}.")
    lines += [context.reason, *_rejected(data), *(f"Note: {note}" for note in context.notes)]
    links = " · ".join(
        f'<a href="{html.escape(url)}">{html.escape(title)}</a>'
        for title, url in context.links.items()
    )
    return "\n".join(
        [
            *(paragraph(line) for line in lines if line),
            _recipes(data, context.recipes),
            f"<p>In the MLflow UI: {links}</p>" if links else "",
            _test_metrics(data, context),
            _pictures(context.pictures),
        ]
    )


def _recipes(data: StudyData, comparisons: Mapping[str, RecipeComparison]) -> str:
    """A table of the best trial of each recipe, and how it differs from the winner."""
    if not comparisons or not data.best:
        return ""
    winner = data.best[0]
    rows = [(str(winner.key.recipe), winner.key, "", "winner")]
    rows += [
        (recipe, each.trial, each.difference_text, each.verdict)
        for recipe, each in comparisons.items()
    ]
    heads = ("recipe", "best trial", data.objectives[0], "difference from the winner", "")
    body = []
    for recipe, key, difference, verdict in rows:
        value = f"{data.by_key[key].values[0]:.6g}"
        cells = map(html.escape, (recipe, str(key), value, difference, verdict))
        style = ' class="best"' if key == winner.key else ""
        body.append(f"<tr{style}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{html.escape(title)}</th>" for title in heads)
    return (
        '<h2 id="recipes">Recipes on validation, with 95 % intervals</h2>\n'
        f'<div class="wide"><table><tr>{head}</tr>\n' + "\n".join(body) + "</table></div>"
    )


def _rejected(data: StudyData) -> Iterator[str]:
    """Yield the trials with a better value than the best trial, and why they may not win."""
    if len(data.goals) > 1 or not data.best:
        return
    sign = 1 if data.goals[0].maximize else -1
    for trial, raw in zip(data.trials, data.raw, strict=True):
        reason = record_of(raw).violation or record_of(raw).dead_codebook
        if trial.values and reason and sign * trial.values[0] > sign * data.best[0].values[0]:
            yield f"Trial {trial.key} has {trial.values[0]:.6g}, but may not win: {reason}."


def _test_metrics(data: StudyData, context: ReportContext) -> str:
    """Return a table of test metrics with 95 % intervals: tested trials and baseline."""
    columns = {
        f"trial {key} ({context.purposes.get(key, 'tested')})": metrics
        for key, metrics in sorted(context.tested.items())
        if metrics
    }
    if not columns:
        return ""
    columns = dict(sorted(columns.items(), key=lambda pair: not pair[0].endswith("(winner)")))
    if context.baseline:
        columns["mean_image (baseline)"] = context.baseline
    values = [{_metric(k): v for k, v in metrics.items()} for metrics in columns.values()]
    names = dict.fromkeys(name for metrics in values for name in metrics)
    names_in_order = [name for name in names if name in METRICS]
    head = "".join(f"<th>{html.escape(title)}</th>" for title in ("", *columns))
    body = [
        f"<tr><td>{html.escape(charts.with_direction(name))}</td>"
        + "".join(f"<td>{_with_interval(metrics, name)}</td>" for metrics in values)
        + "</tr>"
        for name in names_in_order
    ]
    return (
        '<h2 id="test">Test metrics, with 95 % intervals</h2>\n'
        '<p class="muted">↓: lower is better. Of the others, higher is better.</p>\n'
        f'<div class="wide"><table><tr>{head}</tr>\n' + "\n".join(body) + "</table></div>"
    )


def _metric(key: str) -> str:
    return key.partition("/")[2] if key.startswith("test") and "/" in key else key


def _with_interval(values: Mapping[str, float], name: str) -> str:
    if name not in values:
        return ""
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    interval = f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else ""
    return f"{values[name]:.4f}{interval}"


def _pictures(pictures: Mapping[str, bytes]) -> str:
    """Return the embedded test pictures."""
    if not pictures:
        return ""
    figures = [picture(title, png) for title, png in pictures.items()]
    return (
        '<h2 id="pictures">Test pictures of the best trial</h2>\n'
        f'<div class="grid pictures">{"".join(figures)}</div>'
    )
