"""The report of a benchmark as one self-contained HTML page."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from vqlab.benchmark.pictures import test_images
from vqlab.benchmark.plan import Plan
from vqlab.benchmark.published import Published
from vqlab.benchmark.report import Comparison, Pair, Report
from vqlab.benchmark.statistics import ALPHA, smallest_p
from vqlab.config import flatten
from vqlab.evaluation import MEAN
from vqlab.html_page import SORT, Cell, escape, page, paragraph, picture, table
from vqlab.metrics import METRICS, PRIMARY, metric_title
from vqlab.plots import attempt, critical_difference_figure, save_figure

_STYLE = """
table.sortable th{cursor:pointer}
table.sortable th[aria-sort=ascending]:after{content:" ▲"}
table.sortable th[aria-sort=descending]:after{content:" ▼"}
table.sticky td:first-child,table.sticky th:first-child{position:sticky;left:0;
background:var(--paper);z-index:1}
td small{display:block;color:var(--muted)}td b small{font-weight:400}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--link)}
.image{border-top:1px solid var(--line);margin-top:1.2rem}
.runs{display:grid;gap:0 1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,240px),1fr))}
.grid{align-items:start}.grid figure img{border-radius:3px}tfoot td{color:var(--muted)}
details details{margin-left:1rem}
@media print{.runs{grid-template-columns:repeat(auto-fit,minmax(200px,1fr))}.runs p{font-size:10px}
table.sticky td:first-child,table.sticky th:first-child{position:static}}
"""
_DIGITS = 3


def report_page(report: Report) -> str:
    """Return the page."""
    sections = {
        "Results": _metric_tables(report),
        "Ranks": _ranks(report),
        "Pairwise tests": _tests(report),
        "Costs": _costs(report),
        "Published figures": _published(report),
        "The same test images": test_images(report),
        "Runs": _runs(report),
        "Settings": _settings(report.results.plan),
    }
    texts = {title: "\n".join(parts) for title, parts in sections.items()}
    texts = {title: text for title, text in texts.items() if text}
    numbers = {title: number for number, title in enumerate(texts)}
    links = "".join(f'<a href="#s{n}">{escape(title)}</a>' for title, n in numbers.items())
    body = "\n".join(
        f'<h2 id="s{numbers[title]}">{escape(title)}</h2>\n{text}' for title, text in texts.items()
    )
    title = f"Benchmark {report.results.plan.name}"
    head = f"<h1>{escape(title)}</h1>\n{_summary(report)}<nav>{links}</nav>"
    return page(title, f"{head}\n{body}", style=_STYLE, script=SORT)


def _summary(report: Report) -> str:
    results, plan = report.results, report.results.plan
    done, total = len(results.runs), len(plan.cells)
    preset = "" if plan.preset == "full" else f", preset {plan.preset}"
    seeds = ", ".join(map(str, plan.seeds))
    kinds = "one model per category and one for all"
    if len({len(group) > 1 for group in plan.groups}) == 1:
        kinds = "one model for all" if len(plan.groups[0]) > 1 else "one model per category"
    sentences = [
        f"{len(plan.recipes)} recipes on {len(plan.categories)} categories ({kinds}), seeds "
        f"{seeds}{preset}. {plan.source}",
        f"{done} of {total} models are trained and tested. Key: {report.key}",
    ]
    if plan.missing:
        sentences.append(f"Not in the dataset: {', '.join(plan.missing)}.")
    if results.incomplete and done < total:
        sentences.append(f"Not compared, as results are missing: {', '.join(results.incomplete)}.")
    sizes = {tree["data"]["image_size"] for tree in plan.recipes.values()}
    network = any(t["evaluation"]["resolution"] == "network" for t in plan.recipes.values())
    if len(sizes) > 1 and network:
        sentences.append(
            "The recipes have different image sizes, and pixel metrics are measured at those; set "
            "evaluation.resolution=original to compare them."
        )
    commits = {run.tags.get("mlflow.source.git.commit", "")[:8] for run in results.runs.values()}
    commits.discard("")
    if len(commits) > 1:
        sentences.append(f"Runs of different commits are compared: {', '.join(sorted(commits))}.")
    return "".join(map(paragraph, sentences))


def _metric_tables(report: Report) -> Iterator[str]:
    if not report.metrics:
        return
    several = len(report.results.plan.seeds) > 1
    spread = " ± standard deviation over seeds" if several else ""
    yield paragraph(
        f"Mean{spread}; below, the 95 % interval (bootstrap over the test images, the same "
        "resamples for all); no interval: all resamples give the same value, or there are too few "
        "images. Bold: the best. Click a heading to sort.",
        "muted",
    )
    for metric in report.metrics:
        less = "" if METRICS[metric].greater_is_better else " ↓"
        yield f"<h3>{escape(metric_title(metric) + less)}</h3>"
        head = ["", *(_column(column) for column in report.columns)]
        rows = [
            [escape(name), *(_value(report, name, column, metric) for column in report.columns)]
            for name in report.results.methods
        ]
        rows += [_published_row(report, each, metric) for each in report.published
                 if each.mean(metric) is not None]  # fmt: skip
        yield table(head, rows, "sortable sticky")


def _column(column: str) -> str:
    return "mean" if column == MEAN else column


def _value(report: Report, method: str, column: str, metric: str) -> str:
    assert report.resampled is not None
    value = report.resampled.value(method, column, metric)
    values = [report.resampled.value(m, column, metric) for m in report.results.methods]
    best = max(values) if METRICS[metric].greater_is_better else min(values)
    spread = report.spread(method, column, metric)
    text = f"{value:.{_DIGITS}f}" + ("" if spread is None else f" ± {spread:.{_DIGITS}f}")
    if value == best and len(values) > 1:
        text = f"<b>{text}</b>"
    interval = report.resampled.interval(method, column, metric)
    bounds = "no interval" if interval is None else interval.text(_DIGITS)
    return Cell(f"{text}<small>{bounds}</small>", value)


def _published_row(report: Report, each: Published, metric: str) -> list[str]:
    cells: list[str] = []
    for column in report.columns:
        value, note = each.for_column(column, metric)
        text = "" if value is None else f"{value:.{_DIGITS}f}<small>{note}</small>"
        cells.append(Cell(text, value))
    return [f"<i>{escape(each.method.name)}</i>", *cells]


def _ranks(report: Report) -> Iterator[str]:
    if not report.comparisons:
        return
    yield paragraph(
        "Average rank, 1 is best. Mean: blocks are the categories, with means over seeds. A single "
        "category: blocks are the seeds. Friedman: p-value for equal methods. Average ranks that "
        f"differ by less than the critical difference (Nemenyi, level {ALPHA:g}) are not "
        "significantly different (Demšar 2006).",
        "muted",
    )
    for metric, columns in report.comparisons.items():
        grid = f'<div class="grid">{"".join(_metric_ranks(report, metric, columns))}</div>'
        yield _details(metric_title(metric), grid, metric in PRIMARY)


def _metric_ranks(report: Report, metric: str, columns: Mapping[str, Comparison]) -> Iterator[str]:
    overall = next(iter(columns.values()))
    if overall.ranks.critical_difference is not None:
        with attempt("the critical-difference diagram"):
            yield f"<div>{_diagram(metric_title(metric), overall)}</div>"
    head = ["", *(_column(column) for column in columns)]
    rows = [
        [escape(name), *(_rank(each, place) for each in columns.values())]
        for place, name in enumerate(report.results.methods)
    ]
    notes = [[name, *cells] for name, cells in _rank_notes(columns.values())]
    yield f"<div>{table(head, rows, 'sortable sticky', notes)}</div>"


def _rank(comparison: Comparison, place: int) -> str:
    rank = comparison.ranks.average[place]
    return Cell(f"{rank:.2f}", rank)


def _rank_notes(comparisons: Collection[Comparison]) -> Iterator[tuple[str, list[str]]]:
    ranks = [comparison.ranks for comparison in comparisons]
    yield "blocks", [str(each.blocks) for each in ranks]
    yield "Friedman p", ["–" if each.p is None else _p(each.p) for each in ranks]
    critical = [each.critical_difference for each in ranks]
    yield "critical difference", ["–" if each is None else f"{each:.2f}" for each in critical]


def _diagram(title: str, comparison: Comparison) -> str:
    ranks = comparison.ranks
    assert ranks.critical_difference is not None
    figure = critical_difference_figure(
        title,
        ranks.methods,
        ranks.average,
        ranks.critical_difference,
        ranks.groups(),
    )
    file = io.BytesIO()
    save_figure(figure, file)
    return picture(f"Average ranks, {title}, over {ranks.blocks} blocks", file.getvalue())


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def _tests(report: Report) -> Iterator[str]:
    if not report.comparisons:
        return
    yield paragraph(
        "Difference: second minus first, with its 95 % interval. Images: paired bootstrap over the "
        "test images (does the difference hold for other images?). Blocks: Wilcoxon signed-rank "
        "test over categories, or over seeds of one category (does it hold for other categories or "
        "seeds?). p-values are adjusted for the number of pairs (Holm). Bold: below "
        f"{ALPHA:g}.",
        "muted",
    )
    blocks = next(iter(next(iter(report.comparisons.values())).values())).ranks.blocks
    if smallest_p(blocks) > ALPHA:
        yield paragraph(
            f"With {blocks} blocks a signed-rank test cannot give a p-value below "
            f"{smallest_p(blocks):.2g}; it needs six or more.",
            "muted",
        )
    head = ["first", "second", "difference", "interval", "p (images)", "p (blocks)"]
    for metric, columns in report.comparisons.items():
        parts = []
        for place, (column, comparison) in enumerate(columns.items()):
            content = table(head, [_pair(pair) for pair in comparison.pairs], "sortable")
            parts.append(_details(_column(column), content, place == 0))
        yield _details(metric_title(metric), "".join(parts), metric in PRIMARY[:1])


def _details(summary: str, markup: str, opened: bool = False) -> str:
    mark = " open" if opened else ""
    return f"<details{mark}><summary>{escape(summary)}</summary>{markup}</details>"


def _pair(pair: Pair) -> list[str]:
    difference = pair.difference
    value = None if difference is None else difference.value
    interval = None if difference is None else difference.interval
    bounds = "–" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}"
    return [
        escape(pair.first),
        escape(pair.second),
        Cell("–" if value is None else f"{value:+.3f}", value),
        bounds,
        _p_cell(pair.bootstrap_p),
        _p_cell(pair.wilcoxon_p),
    ]


def _p_cell(value: float | None) -> Cell:
    if value is None:
        return Cell("–", None)
    return Cell(f"<b>{_p(value)}</b>" if value < ALPHA else _p(value), value)


def _costs(report: Report) -> Iterator[str]:
    plan = report.results.plan
    rows = []
    for name in plan.methods:
        costs = report.results.costs(name)
        values = (
            (costs.training_cpu_seconds, ".3g"),
            (costs.images_per_cpu_second, ".3g"),
            (costs.peak_memory_mib, ".0f"),
            (costs.checkpoint_mib, ".3g"),
        )
        cells = [Cell("–" if v is None else f"{v:{form}}", v) for v, form in values]
        rows.append([escape(name), *cells])
    head = ["", "training CPU-s", "images per CPU-s", "peak memory, MiB", "checkpoint, MiB"]
    yield table(head, rows, "sortable sticky")
    yield paragraph(
        "Means over seeds. Training: CPU-seconds of all threads from cached features to the "
        "calibrated model, and size of the checkpoint: sums over the models of all categories. "
        "Images per CPU-second, from file to score, and peak resident memory (of the largest "
        "model, libraries included): of a fresh process that scores images. –: not measured (the "
        "run was resumed, or is of an older version).",
        "muted",
    )


def _published(report: Report) -> Iterator[str]:
    if not report.published:
        return
    rows = [
        [
            escape(each.dataset),
            f'<a href="{escape(each.method.link)}">{escape(each.method.name)}</a>'
            if each.method.link
            else escape(each.method.name),
            escape(each.method.setting),
            escape(each.method.source),
        ]
        for each in report.published
    ]
    yield paragraph(
        "One model for all categories of the dataset, shown in italics in the tables above. "
        "These figures are copied from papers, which use other backbones and image sizes, and "
        "mostly the epoch that is best on the test set.",
        "muted",
    )
    yield table(["dataset", "method", "setting", "source"], rows, "sources")


def _runs(report: Report) -> Iterator[str]:
    results = report.results
    states = Counter(state.state for state in results.states)
    yield paragraph(", ".join(f"{count} {state}" for state, count in states.items()) + ".")
    rows = []
    for index, cell in enumerate(results.plan.cells):
        run, state = results.runs.get(index), results.states[index]
        link = "" if run is None else report.links.get(run.run_id, "")
        link_text = "" if run is None else escape(run.run_id[:8])
        if link:
            link_text = f'<a href="{escape(link)}">{link_text}</a>'
        note = state.reason or ("reused" if state.reused else "")
        names = ", ".join(cell.categories)
        rows.append([escape(cell.method), escape(names), str(cell.seed), link_text, escape(note)])
    listing = table(["method", "categories", "seed", "run", ""], rows, "sortable")
    yield _details(f"All {len(rows)} models", listing)


def _settings(plan: Plan) -> Iterator[str]:
    flat = {name: flatten(tree) for name, tree in plan.recipes.items()}
    keys = dict.fromkeys(key for settings in flat.values() for key in settings)
    hidden = ("data.root", "data.good", "data.bad", "data.categories", "data.joint")
    rows = []
    for key in keys:
        values = [str(flat[name].get(key, "–")) for name in flat]
        if key not in hidden:
            rows.append([escape(key), *map(escape, values)])
    listing = table(["setting", *flat], rows, "sticky")
    yield _details("All settings of the recipes", listing)
