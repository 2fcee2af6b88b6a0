"""The report of a sweep: `study.html`, one self-contained page, and `trials.csv`.

plotly.js is part of the file because MLflow shows HTML artifacts in a sandboxed frame, which cannot
load other files.
"""

from __future__ import annotations

import contextlib
import html
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqlab.html_page import STYLE, paragraph
from vqlab.run import short_names
from vqlab.sweep.events import TrialKey
from vqlab.sweep.report import charts
from vqlab.sweep.report.context import ReportContext
from vqlab.sweep.report.copies import quiet
from vqlab.sweep.report.importance import EVALUATOR, MEANING, importances
from vqlab.sweep.report.study_data import StudyData, value_text
from vqlab.sweep.report.summary import summary
from vqlab.sweep.report.trial_table import TrialTable, trial_table, validation_and_test
from vqlab.sweep.study.record import record_of
from vqlab.sweep.study.studies import Studies

PAGE, TABLE = "study.html", "trials.csv"
_CONFIG = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
"""Without the button that sends a chart to plotly's servers."""

_STYLE = """
#all th{cursor:pointer}
tr.best td{background:var(--best)}tr.other td{color:var(--muted)}
@media print{tr.best td{font-weight:600}.screen{display:none}.grid>div{break-inside:avoid}
.grid>div>div{min-width:0!important}.trials{page:trials}#all{font-size:14px;white-space:nowrap}}
@page trials{size:A4 landscape}
"""
_SCRIPT = """
document.querySelectorAll("#all th").forEach((head,column)=>head.addEventListener("click",()=>{
 const body=document.querySelector("#all tbody"),up=head.dataset.up!=="1";
 head.dataset.up=up?"1":"0";
 const key=row=>row.cells[column].textContent,number=text=>text===""?NaN:Number(text);
 [...body.rows].sort((a,b)=>{const x=key(a),y=key(b),m=number(x),n=number(y);
  if(x===""||y==="")return (x==="")-(y==="");
  const order=isNaN(m)||isNaN(n)?x.localeCompare(y):m-n;return up?order:-order})
 .forEach(row=>body.append(row))}));
const dark=matchMedia("(prefers-color-scheme:dark)");
const charts=[...document.querySelectorAll(".js-plotly-plot")];
const PAPER={"--ink":"#1f2933","--line":"#d5dbe1"};
const paint=printing=>{const style=getComputedStyle(document.documentElement);
 const colour=name=>printing?PAPER[name]:style.getPropertyValue(name);
 const ink=colour("--ink"),line=colour("--line");
 charts.forEach(chart=>{
  const change={"font.color":ink,paper_bgcolor:"rgba(0,0,0,0)",plot_bgcolor:"rgba(0,0,0,0)"};
  Object.keys(chart.layout).filter(name=>/^[xy]axis/.test(name)).forEach(name=>{
   for(const part of ["gridcolor","linecolor","zerolinecolor"])change[name+"."+part]=line});
  Plotly.relayout(chart,{...change,...size(chart,printing)})})};
const size=(chart,printing)=>{ // A4 without margins is 688 px wide
 chart.style.zoom=1;
 if(!printing)return {width:undefined,autosize:true};
 const space=chart.closest(".grid").children.length>1?336:688;
 const width=Math.max(space,chart.layout.meta?.min_width??0);
 chart.style.zoom=space/width;return {width}};
paint(false);dark.addEventListener("change",()=>paint(false));
const table=document.querySelector("#all");
const print=printing=>{paint(printing); // A4 landscape: 1016 px
 table.style.zoom=printing?Math.min(1,1016/table.offsetWidth):1};
addEventListener("beforeprint",()=>print(true));addEventListener("afterprint",()=>print(false));
"""


def write_report(
    studies: Studies, objectives: Sequence[str], folder: Path, context: ReportContext
) -> list[Path]:
    """Write `study.html` and `trials.csv` into `folder`, and return their paths.

    objectives: names of the values of a trial, in their order. Empty charts are
    omitted. Raises ValueError unless each objective has a name.
    """
    data = StudyData(studies, objectives, context.not_clearly_better, context.winner)
    folder.mkdir(parents=True, exist_ok=True)
    table = trial_table(data, context.tested, context.purposes)
    table.write(folder / TABLE)
    (folder / PAGE).write_text(_page(data, table, context), "utf-8", errors="backslashreplace")
    return [folder / TABLE, folder / PAGE]


def _page(data: StudyData, table: TrialTable, context: ReportContext) -> str:
    from plotly.offline import get_plotlyjs

    pairs = validation_and_test(data, context.tested)
    sections: dict[str, tuple[str, charts.Charts]] = {
        "Optimization history": ("", charts.history(data)),
        f"Importance of settings ({EVALUATOR})": (
            MEANING,
            charts.importance_bars(importances(data)),
        ),
        "Difference from the recipe's own trial": (
            "With 95 % intervals. Validation cannot tell the grey ones from the recipe's own.",
            charts.differences(data, context.differences),
        ),
        "Parallel coordinates": (
            f"Orange: better in {data.objectives[0]}.",
            charts.parallel_coordinates(data),
        ),
        "Slices": ("Later trials are orange.", charts.slices(data)),
        "Intermediate values": ("", charts.intermediate_values(data)),
        "Pareto front": ("Orange: no trial is better in all objectives.", charts.pareto(data)),
        "Validation and test": (
            "Below the diagonal: worse on test; for metrics marked ↓, lower is better. "
            + _purposes(context.purposes),
            charts.test_against_validation(pairs, context.purposes),
        ),
        "Timeline": ("", charts.timeline(data)),
    }
    parts: list[str] = []
    links: list[str] = []
    with quiet(), _plain_template():
        for number, (heading, (words, figures)) in enumerate(sections.items()):
            divisions = list(_divisions(figures, f"chart-{number}"))
            if divisions:
                links.append(f'<a href="#s{number}">{html.escape(heading)}</a>')
                parts.append(f'<h2 id="s{number}">{html.escape(heading)}</h2>')
                parts += [paragraph(words, "muted"), *divisions]
    links.append('<a href="#trials">Trials</a>')
    title = html.escape(data.studies.name)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<style>{STYLE}{_STYLE}</style>\n<script>{get_plotlyjs()}</script></head>\n"
        f"<body><h1>{title}</h1>\n<nav>{' '.join(links)}</nav>\n{summary(data, context)}\n"
        + "\n".join(part for part in parts if part)
        + f"\n{_trials(data, table, context)}\n<script>{_SCRIPT}</script>\n</body></html>\n"
    )


@contextlib.contextmanager
def _plain_template() -> Iterator[None]:
    """Use plotly's template `none`: the default one adds 7 kB to each chart."""
    import plotly.io

    before = plotly.io.templates.default
    plotly.io.templates.default = "none"
    try:
        yield
    finally:
        plotly.io.templates.default = before


def _divisions(figures: charts.Charts, name: str) -> Iterator[str]:
    """Yield each heading with its charts, side by side if there is room."""
    numbers = itertools.count()
    for heading, group in itertools.groupby(figures, key=lambda pair: pair[0]):
        if heading:
            yield f"<h3>{html.escape(heading)}</h3>"
        divisions = [_division(figure, f"{name}-{next(numbers)}") for _, figure in group]
        yield f'<div class="grid">{"".join(divisions)}</div>'


def _division(figure: Any, name: str) -> str:
    figure.update_layout(
        title=None,
        height=figure.layout.height or 400,
        margin={"t": 30, "b": 60, "l": 70, "r": 20} | figure.layout.margin.to_plotly_json(),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_yaxes(title_standoff=12)  # else titles cover long labels of ticks
    chart = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=_CONFIG)
    width = (figure.layout.meta or {}).get("min_width", 0)
    return f'<div><div style="min-width:{width}px">{chart}</div></div>'


def _trials(data: StudyData, table: TrialTable, context: ReportContext) -> str:
    paths = {path for names in data.names.values() for path in names}
    short = short_names(name for name in table.columns if name in paths)
    head = "".join(f"<th>{html.escape(short.get(name, name))}</th>" for name in table.columns)
    best = {trial.key for trial in data.best}
    body = []
    for trial, raw, row in zip(data.trials, data.raw, table.rows, strict=True):
        style = "best" if trial.key in best else "" if trial.state == "COMPLETE" else "other"
        cells = [html.escape(value_text(cell)) for cell in row]
        run_id = record_of(raw).run_id
        if run_id and context.run_link is not None:
            address = html.escape(context.run_link(str(run_id)))
            cells[-1] = f'<a href="{address}">{cells[-1]}</a>'
        body.append(f'<tr class="{style}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')
    return (
        '<div class="trials"><h2 id="trials">Trials</h2>\n'
        '<p class="muted screen">Click a heading to sort. trials.csv has all digits.</p>\n'
        f'<div class="wide"><table id="all"><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div></div>"
    )


def _purposes(purposes: Mapping[TrialKey, str]) -> str:
    """Return e.g. `Trial 3: winner. Trial 1: on request, not used for any choice.`"""
    words = {charts.ON_REQUEST: f"{charts.ON_REQUEST}, not used for any choice"}
    return " ".join(f"Trial {key}: {words.get(why, why)}." for key, why in sorted(purposes.items()))
