"""Tables of metrics: one row per category or split, one column per metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.text import Text

from vqlab.cli.fit_width import PROTECTED, Cell, Column, FittedTable, Row, Widest, from_columns
from vqlab.metrics import METRICS, Interval, headlines, metric_title, of_split, rate_counts

if TYPE_CHECKING:
    from vqlab.compare import Comparison, RunsComparison
    from vqlab.evaluation import Report, Thresholds
    from vqlab.metrics import Difference

_FORMS = ((4, " "), (3, " "), (3, "\n"), (2, "\n"), (1, " "), (1, "\n"), (1, None))
"""Forms of a table, widest first: headline level of its metrics, and separator before intervals."""
AUDIT_NOTE = (
    "⚠ a trivial image statistic separates normal from anomalous test images: image metrics may be "
    "inflated (see vqlab data audit)."
)
"""Footnote on categories with a data-audit warning."""
_INDENT = 2 * PROTECTED
"""Indent of a category under its heading."""
_MARK = PROTECTED + "⚠"
_LEGEND = "a–b: 95 % interval (rates, k of n images: Clopper–Pearson; others: bootstrap)"
Metrics = Mapping[str, float]


def report_table(
    title: str,
    rows: Sequence[tuple[str, Report]],
    thresholds: Thresholds | None = None,
    baselines: Sequence[tuple[str, Report]] = (),
) -> Widest:
    """Return the metrics of several reports, one row each; with several categories one row per
    category, their mean, and all images pooled. Baselines have one row, their mean.

    thresholds: those of the reports.
    """
    entries: list[_Entry] = []
    for name, report in rows:
        entries += _of_report(name, report)
    several = any(len(report.per_category) > 1 for _, report in rows)
    for name, report in baselines:
        name += (", mean" if several else "") + (_MARK if report.warned else "")
        entries.append(_Entry(name, _with_intervals(report), "dim"))
    return _metrics_table(title, entries, thresholds)


def figures_table(
    title: str,
    rows: Mapping[str, tuple[Metrics, str]],
    warned: bool = False,
    thresholds: Thresholds | None = None,
) -> Widest:
    """Return metrics by key, such as `test/aupro`, one row per (metrics, split).

    warned: whether the test images have a data-audit warning.
    """
    entries = []
    for name, (metrics, split) in rows.items():
        mark = _MARK if warned and split.startswith("test") else ""
        entries.append(_Entry(name + mark, of_split(metrics, split)))
    return _metrics_table(title, entries, thresholds)


def comparison_tables(comparison: Comparison) -> list[FittedTable]:
    """Return one table per category: headline metrics of both runs, differences, intervals."""
    from vqlab.compare import MEAN

    runs = (comparison.first, comparison.second)
    columns = [Column("", text=True), *(Column(f"{run.name} ({run.run_id[:8]})") for run in runs)]
    columns += [Column("difference, 95 % interval"), Column("p")]
    tables = []
    for category, differences in comparison.differences.items():
        warned = category in comparison.warned or (category == MEAN and bool(comparison.warned))
        images = comparison.images.get(category, {})
        values = comparison.values[category]
        texts = [_values({key: pair[i] for key, pair in values.items()}, images) for i in (0, 1)]
        rows = [
            _difference_row(key, [text[key] for text in texts], differences[key])
            for key in headlines(4)
            if key in differences
        ]
        reasons = {d.reason for key, d in differences.items() if key in headlines(4)} - {""}
        notes = [f"no interval: {'; '.join(sorted(reasons))}"] if reasons else []
        title = category + " ⚠" * warned
        if images:
            counts = images["normal_images"], images["anomalous_images"]
            title += ": {} normal and {} anomalous images".format(*counts)
        tables.append(FittedTable(title, columns, rows, "\n".join(notes + [AUDIT_NOTE] * warned)))
    return tables


def runs_tables(comparison: RunsComparison) -> list[FittedTable]:
    """Return a table of the settings that differ, and one per category: metrics of each run with
    the difference to the baseline and its interval."""
    from vqlab.compare import MEAN

    text = Column("", text=True, unbroken=True)
    ids = [
        run.run_id[:8] + " (baseline)" * (place == 0) for place, run in enumerate(comparison.runs)
    ]
    columns = [(replace(text, header="run"), ids)]
    columns += [
        (
            Column(name.rpartition(".")[2], text=True, rank=5),
            ["–" if v is None else str(v) for v in values],
        )
        for name, values in comparison.settings.items()
    ]
    columns.append((replace(text, header="name", rank=9), [run.name for run in comparison.runs]))
    tables = [from_columns(comparison.title, columns)]
    for category, values in comparison.pairs[0].values.items():
        columns = [(replace(text, header="run"), ids)]
        pairs = comparison.pairs
        shared = [name for name in headlines(4) if all(name in p.values[category] for p in pairs)]
        shared.sort(key=lambda name: METRICS[name].headline)
        for rank, name in enumerate(shared):
            cells = [f"{values[name][0]:.3f}"]
            cells += [
                _run_cell(p.values[category][name][1], p.differences[category][name]) for p in pairs
            ]
            columns.append((Column(metric_title(name), rank=rank), cells))
        title = "mean over categories" if category == MEAN else category
        tables.append(from_columns(title, columns))
    return tables


def _run_cell(value: float, difference: Difference) -> str:
    text = f"{value:.3f} {difference.value:+.3f}"
    if difference.interval is None:
        return text
    low, high = difference.interval
    return f"{text} [{low:+.3f}, {high:+.3f}]" + "*" * (not low <= 0 <= high)


def _values(metrics: Metrics, images: Mapping[str, int]) -> dict[str, str]:
    """Format metrics, rates with their counts of images."""
    counts = rate_counts({**metrics, **images})
    return {
        key: f"{value:.3f}" + (f" ({counts[key]})" if key in counts else "")
        for key, value in metrics.items()
    }


def _difference_row(key: str, values: Sequence[str], difference: Difference) -> Row:
    p = "–" if difference.p is None else f"{difference.p:.3f}"
    interval, style = "no interval", ""
    if difference.interval is not None:
        low, high = difference.interval
        interval = f"[{low:+.3f}, {high:+.3f}]"
        style = "bold" if not low <= 0 <= high else ""
    return Row([metric_title(key), *values, f"{difference.value:+.3f}  {interval}", p], style)


def thresholds_text(thresholds: Thresholds) -> str:
    """Describe the thresholds, how they were chosen, and their guarantee."""
    origin: list[str] = [] if thresholds.method is None else [thresholds.method]
    if thresholds.calibration is not None:
        origin.append(f"from {thresholds.calibration.count} held-out normal images")
    suffix = f" ({', '.join(origin)})" if origin else ""
    target = "no target false-reject rate"
    if thresholds.promised is not None:
        target = f"target: a mean false-reject rate of at most {thresholds.promised:.3g}"
    review, marked = "", "in a rejected image"
    pixels = f"pixels above {thresholds.pixel:.4g} are marked"
    if thresholds.region_height:
        pixels = (
            f"regions above {thresholds.pixel:.4g} are marked where they reach "
            f"{100 * thresholds.region_height:.3g} % of their height"
        )
    if thresholds.review is not None:
        review = f", else in review if it exceeds {thresholds.review:.4g}"
        marked = "in an image that does not pass"
    from vqlab.evaluation import (
        review_sentence,  # loads torch, which tables of stored runs do not need
    )

    sentence = review_sentence(thresholds)
    return (
        f"thresholds{suffix}: an image is rejected if its score exceeds "
        f"{thresholds.image:.4g}{review}; {marked}, {pixels}; {target}."
        + (f"\n{sentence}" if sentence else "")
    )


@dataclass(frozen=True)
class _Entry:
    """A row of metrics; a heading if there are none."""

    name: str
    metrics: Metrics
    style: str = ""
    last: bool = False
    """Whether it is the last one under its heading."""


def _of_report(name: str, report: Report) -> Iterator[_Entry]:
    """Yield one row, or for several categories a heading, their rows, mean and pooled."""
    mark = _MARK if set(report.warned) & set(report.per_category) else ""
    if len(report.per_category) < 2:
        yield _Entry(name + mark, _with_intervals(report))
        return
    yield _Entry(name, {}, "bold")
    for category, metrics in report.per_category.items():
        title = _INDENT + category + _MARK * (category in report.warned)
        yield _Entry(title, {**metrics, **report.images.get(category, {})})
    yield _Entry(f"{_INDENT}mean{mark}", _with_intervals(report), "bold")
    pooled = {**report.pooled, **report.pooled_images}
    yield _Entry(f"{_INDENT}pooled{mark}", pooled, last=True)


def _with_intervals(report: Report) -> dict[str, float]:
    """Return the mean metrics with their intervals (`…_low`, `…_high`), and the numbers of images
    of a single category."""
    keyed = report.keyed("")
    return {key[1:]: value for key, value in keyed.items() if key.count("/") == 1}


def _metrics_table(title: str, entries: Sequence[_Entry], thresholds: Thresholds | None) -> Widest:
    """Return the forms of a table; wider terminals show more metrics and intervals."""
    measured = {key for entry in entries for key in entry.metrics}
    captions = [] if thresholds is None else [thresholds_text(thresholds)]
    captions += [AUDIT_NOTE] if any("⚠" in entry.name for entry in entries) else []
    forms = []
    for level, separator in _FORMS:
        keys = [key for key in headlines(level) if key in measured]
        rows = [_row(entry, keys, separator) for entry in entries]
        if thresholds is not None and thresholds.promised is not None:
            targets = {"false_reject_rate": f"≤ {thresholds.promised:.3f}"}
            from vqlab.evaluation import expected_shares  # as above

            shares = expected_shares(thresholds)
            if shares is not None:
                targets["review_rate"] = f"≈ {shares.review:.3f}"
            cells = [targets.get(key, "") for key in keys]
            rows.append(Row(["target", *cells], "dim"))
        columns = [Column("", text=True), *(Column(metric_title(key)) for key in keys)]
        has_intervals = separator is not None and any(key.endswith("_low") for key in measured)
        caption = "\n".join([_LEGEND] * has_intervals + captions)
        forms.append(FittedTable(title, columns, rows, caption))
    return Widest(forms)


def _row(entry: _Entry, keys: Sequence[str], separator: str | None) -> Row:
    cells = [_cell(entry.metrics, key, separator) for key in keys if entry.metrics]
    return Row([entry.name, *cells], entry.style, entry.last)


def _cell(metrics: Metrics, key: str, separator: str | None) -> Cell:
    """Format a metric, followed by `separator`, the count of images of a rate, and the interval.
    Without `separator`, omit the interval and put the count below."""
    if key not in metrics:
        return "–"
    more = [str(count) for name, count in rate_counts(metrics).items() if name == key]
    if separator is not None and f"{key}_low" in metrics:
        more.append(Interval(metrics[f"{key}_low"], metrics[f"{key}_high"]).text())
    value = f"{metrics[key]:.3f}"
    if separator == " ":
        return Text.assemble(value, " ", (": ".join(more), "dim")) if more else value
    return Text.assemble(value, *(("\n" + line, "dim") for line in more)) if more else value
