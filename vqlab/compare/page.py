"""A comparison as one self-contained HTML page, and as a run in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vqlab.compare.images import TestImage, side_by_side
from vqlab.compare.several import RunsComparison
from vqlab.evaluation import MEAN
from vqlab.html_page import escape, page, paragraph, table
from vqlab.metrics import METRICS, Difference, Ranking, headlines, lower_is_better, metric_title
from vqlab.tracking import NOTE, RunRecord, Tracker, category_tags
from vqlab.tracking.pages import compare_route
from vqlab.tracking.run_settings import mean_and_deviation
from vqlab.tracking.views import DURATION, Runs, bar, chart_view, metric, param, pictures, tag

PAGE = "comparison.html"
"""Artifact of a comparison's run."""
_CHARTS = 4
"""Number of metrics with a chart."""
_STYLE = """
td{vertical-align:top}td small{display:block;color:var(--muted)}td b small{color:inherit}
th,.name{white-space:normal;overflow-wrap:anywhere}
th{max-width:24ch;min-width:8ch;vertical-align:bottom}
.name{display:inline-block;max-width:min(32ch,50vw)}
.image{border-top:1px solid var(--line);margin-top:1.2rem}
.runs{display:grid;gap:0 1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}
.legend{border:1px solid var(--line);padding:.4rem .8rem}
@media print{.runs{grid-template-columns:repeat(auto-fit,minmax(200px,1fr))}.runs p{font-size:10px}}
"""


def comparison_page(comparison: RunsComparison, links: Mapping[str, str]) -> str:
    """Return the page. links: addresses in the MLflow UI, by run ID or by title."""
    parts = [
        f"<h1>{escape(comparison.title)}</h1>",
        _runs(comparison, links),
        _settings(comparison),
        *_metrics(comparison),
        _groups(comparison),
        _images(comparison),
    ]
    return page(comparison.title, "\n".join(filter(None, parts)), style=_STYLE)


def names(runs: Sequence[RunRecord]) -> list[str]:
    """Return names of runs for headings, with ID prefixes that make them unique."""
    return [f"{run.name} ({run.run_id[:8]})" for run in runs]


def _runs(comparison: RunsComparison, links: Mapping[str, str]) -> str:
    rows = []
    for number, (run, name) in enumerate(zip(comparison.runs, names(comparison.runs), strict=True)):
        role = "baseline" if number == 0 else ""
        address = escape(links[run.run_id]) if run.run_id in links else ""
        title = f'<a class="name" href="{address}">{escape(name)}</a>' if address else _name(name)
        started = f"{run.start:%Y-%m-%d %H:%M}"
        rows.append([title, escape(run.tags.get("vqlab.detector", "")), started, role])
    fingerprint = comparison.baseline.tags.get("vqlab.data_fingerprint", "")[:12]
    titles = [
        f'<a href="{escape(address)}">{escape(title)}</a>'
        for title, address in links.items()
        if title not in {run.run_id for run in comparison.runs}
    ]
    return (
        paragraph(f"All runs were measured on the same test images (dataset {fingerprint}).")
        + (f"<p>In the MLflow UI: {' · '.join(titles)}</p>" if titles else "")
        + table(["run", "detector", "started (UTC)", ""], rows)
    )


def _settings(comparison: RunsComparison) -> str:
    if not comparison.settings:
        return paragraph("The runs have the same settings.")
    rows = [
        [_name(name), *("–" if value is None else _name(_short(value)) for value in values)]
        for name, values in comparison.settings.items()
    ]
    return "<h2>Settings that differ</h2>\n" + table(["", *names(comparison.runs)], rows)


def _name(text: str) -> str:
    """Return a text as markup that wraps if it is long."""
    return f'<span class="name">{escape(text)}</span>'


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _metrics(comparison: RunsComparison) -> Iterator[str]:
    yield "<h2>Test metrics</h2>"
    yield (
        '<p class="muted">Below each value: difference to the baseline with its 95 % interval '
        "(paired bootstrap; rates: exact). Bold: the interval excludes 0. ↓: lower is better.</p>"
    )
    for category in comparison.pairs[0].values:
        images = comparison.pairs[0].images.get(category, {})
        heading = "mean over categories" if category == MEAN else category
        if images:
            counts = images["normal_images"], images["anomalous_images"]
            heading += ": {} normal and {} anomalous images".format(*counts)
        yield f"<h3>{escape(heading)}</h3>"
        yield table(["", *names(comparison.runs)], _rows(comparison, category))


def _rows(comparison: RunsComparison, category: str) -> list[list[str]]:
    values = [pair.values[category] for pair in comparison.pairs]
    shared = [name for name in headlines(4) if all(name in each for each in values)]
    rows = []
    for name in shared:
        title = metric_title(name) + " ↓" * lower_is_better(f"test/{name}")
        cells = [f"{values[0][name][0]:.3f}"]
        for pair in comparison.pairs:
            value = pair.values[category][name][1]
            cells.append(_cell(value, pair.differences[category][name]))
        rows.append([escape(title), *cells])
    return rows


def _cell(value: float, difference: Difference) -> str:
    text = f"{difference.value:+.3f}"
    if difference.interval is None:
        return f"{value:.3f}<small>{text}, no interval</small>"
    low, high = difference.interval
    cell = f"{value:.3f}<small>{text} [{low:+.3f}, {high:+.3f}]</small>"
    return cell if low <= 0 <= high else f"<b>{cell}</b>"


def _groups(comparison: RunsComparison) -> str:
    if not comparison.groups:
        return ""
    ranked = [name for name in headlines(2) if isinstance(METRICS[name], Ranking)]
    rows = []
    for group in comparison.groups:
        runs = list(group.values())
        cells = [mean_and_deviation(runs, f"test/{name}") for name in ranked]
        rows.append([escape(", ".join(group)), _name(", ".join(names(runs))), *cells])
    head = ["seeds", "runs", *map(metric_title, ranked)]
    return (
        "<h2>Runs that differ only in their seed</h2>\n"
        + paragraph("Mean ± standard deviation over seeds.", "muted")
        + table(head, rows)
    )


def _images(comparison: RunsComparison) -> str:
    if not comparison.images:
        return paragraph("The runs have no pictures of single test images.", "muted")
    parts = [_image(comparison, image) for image in comparison.images]
    return (
        "<h2>The same test images</h2>\n"
        + paragraph(
            "Images with different verdicts come first, then those whose calibrated scores (0 to "
            "1, 0.5 at the threshold of each run) differ most.",
            "muted",
        )
        + "\n".join(parts)
    )


def _image(comparison: RunsComparison, image: TestImage) -> str:
    first = image.rows[0]
    label = first["label"] if first["defect"] == "good" else f"{first['label']}, {first['defect']}"
    runs = dict(zip(names(comparison.runs), comparison.runs, strict=True))
    return side_by_side(f"{first['file']} ({label})", runs, image)


def log_comparison(tracker: Tracker, comparison: RunsComparison, path: Path) -> str:
    """Write the page to `path` and log it as a run with links into the UI; return its address."""
    experiment = comparison.baseline.experiment
    pages = tracker.pages(experiment)
    ids = [run.run_id for run in comparison.runs]
    relative = {
        "charts and pictures of these runs": _charts_route(tracker, comparison),
        "parallel coordinates (choose a metric there)": compare_route(pages.experiment_id, ids),
    }
    links = {title: pages.link(each) for title, each in relative.items()}
    links |= {run_id: pages.link(pages.run(run_id)) for run_id in ids}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(comparison_page(comparison, links), encoding="utf-8")
    tags = {"vqlab.kind": "comparison", **category_tags(comparison.baseline.categories)}
    name = f"comparison of {len(ids)} runs"
    with tracker.start(experiment=experiment, name=name, tags=tags) as tracked:
        runs = "\n".join(
            f"- [{run.run_id[:8]}]({pages.run(run.run_id)})" for run in comparison.runs
        )
        views = " · ".join(f"[{title}]({address})" for title, address in relative.items())
        tracked.set_tags({NOTE: f"Artifact `{PAGE}` compares these runs ({views}):\n\n{runs}\n"})
        tracked.log_text(path.read_text(encoding="utf-8"), PAGE)
    return tracked.link


def _charts_route(tracker: Tracker, comparison: RunsComparison) -> str:
    """Return the route of a view of these runs: test metrics, and the same test pictures."""
    pages = tracker.pages(comparison.baseline.experiment)
    ids = [run.run_id for run in comparison.runs]
    metrics = [f"test/{name}" for name in headlines(2)]
    metrics = [key for key in metrics if any(key in run.metrics for run in comparison.runs)]
    where = f"attributes.run_id IN ({', '.join(repr(each) for each in ids)})"
    keys = dict.fromkeys(
        f"{image.category}/{row['defect']}" for image in comparison.images for row in image.rows
    )
    charts = [bar("Test metrics", key) for key in metrics[:_CHARTS]]
    if keys:
        charts.append(pictures("Test pictures", list(keys)))
    columns = [tag("vqlab.detector"), *map(metric, metrics), *map(param, comparison.settings)]
    runs = Runs(where, metrics[0] if metrics else "test/image_auroc")
    key = "compare-" + "-".join(sorted(each[:6] for each in ids))[:60]
    view = chart_view(comparison.title, charts, runs, [*columns, DURATION])
    pages.save({key: view})
    return pages.charts(key)
