"""Tables of metrics: one row per category or split, one column per metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from vqlab.cli.fit_width import PROTECTED, Cell, Column, FittedTable, Row, Widest
from vqlab.metrics import Interval, headlines, metric_title, rate_counts

if TYPE_CHECKING:
    from vqlab.compare import Comparison
    from vqlab.evaluation import Report, Thresholds
    from vqlab.metrics import Difference

_FORMS = ((4, " "), (3, " "), (3, "\n"), (2, "\n"), (1, " "), (1, "\n"), (1, None))
"""Forms of a table, widest first: headline level of its metrics, separator before intervals."""
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
    beside: Sequence[tuple[str, Report]] = (),
) -> Widest:
    """Metrics of several reports, one row each; with several categories one row per category, their
    mean, and all images pooled. Reports in `beside` (baselines) have one row, their mean.

    thresholds: those of the reports.
    """
    entries: list[_Entry] = []
    for name, report in rows:
        entries += _of_report(name, report)
    several = any(len(report.per_category) > 1 for _, report in rows)
    for name, report in beside:
        name += (", mean" if several else "") + (_MARK if report.warned else "")
        entries.append(_Entry(name, _with_intervals(report), "dim"))
    return _metrics_table(title, entries, thresholds)


def figures_table(
    title: str,
    rows: Mapping[str, tuple[Metrics, str]],
    warned: bool = False,
    thresholds: Thresholds | None = None,
) -> Widest:
    """Metrics by key, such as `test/aupro`, one row per (metrics, split).

    warned: whether the test images have a data-audit warning.
    """
    entries = []
    for name, (metrics, split) in rows.items():
        mark = _MARK if warned and split.startswith("test") else ""
        entries.append(_Entry(name + mark, split_of(metrics, split)))
    return _metrics_table(title, entries, thresholds)


def comparison_tables(comparison: Comparison) -> list[FittedTable]:
    """One table per category: headline metrics of both runs and their difference, with interval."""
    from vqlab.compare import MEAN

    runs = (comparison.first, comparison.second)
    columns = [Column("", text=True), *(Column(f"{run.name} ({run.run_id[:8]})") for run in runs)]
    columns += [Column("difference, 95 % interval"), Column("p")]
    tables = []
    for category, differences in comparison.differences.items():
        warned = category in comparison.warned or (category == MEAN and bool(comparison.warned))
        images = comparison.images.get(category, {})
        values = comparison.values[category]
        pairs = [_values({key: both[i] for key, both in values.items()}, images) for i in (0, 1)]
        rows = [
            _difference_row(key, [pair[key] for pair in pairs], differences[key])
            for key in headlines(4)
            if key in differences
        ]
        reasons = {each.reason for key, each in differences.items() if key in headlines(4)} - {""}
        notes = [f"no interval: {'; '.join(sorted(reasons))}"] if reasons else []
        title = category + " ⚠" * warned
        title += f": {_counted(images)}" if images else ""
        tables.append(FittedTable(title, columns, rows, "\n".join(notes + [AUDIT_NOTE] * warned)))
    return tables


def _values(metrics: Metrics, images: Mapping[str, int]) -> dict[str, str]:
    """Format metrics, rates with their counts of images."""
    counts = rate_counts({**metrics, **images})
    return {
        key: f"{value:.3f}" + (f" ({counts[key]})" if key in counts else "")
        for key, value in metrics.items()
    }


def _difference_row(key: str, pair: Sequence[str], difference: Difference) -> Row:
    p = "–" if difference.p is None else f"{difference.p:.3f}"
    moved, style = f"{difference.value:+.3f}  no interval", ""
    if difference.interval is not None:
        low, high = difference.interval
        moved = f"{difference.value:+.3f}  [{low:+.3f}, {high:+.3f}]"
        style = "bold" if not low <= 0 <= high else ""
    return Row([metric_title(key), *pair, moved, p], style)


def _counted(images: Mapping[str, int]) -> str:
    return f"{images['normal_images']} normal and {images['anomalous_images']} anomalous images"


def thresholds_text(thresholds: Thresholds) -> str:
    """Describe the thresholds, how they were chosen, and their guarantee."""
    chosen: list[str] = [] if thresholds.method is None else [thresholds.method]
    if thresholds.calibration is not None:
        chosen.append(f"from {thresholds.calibration.count} held-out normal images")
    how = f" ({', '.join(chosen)})" if chosen else ""
    target = "no target false-reject rate"
    if thresholds.promised is not None:
        target = f"target: a mean false-reject rate of at most {thresholds.promised:.3g}"
    return (
        f"thresholds{how}: an image is rejected if its score exceeds {thresholds.image:.4g}; in "
        f"a rejected image, pixels above {thresholds.pixel:.4g} are marked; {target}."
    )


def split_of(metrics: Metrics, split: str) -> dict[str, float]:
    """Return the metrics of one split by name: `test/aupro` of split `test` as `aupro`."""
    start = f"{split}/"
    return {key[len(start) :]: value for key, value in metrics.items() if key.startswith(start)}


@dataclass(frozen=True)
class _Entry:
    """A row; headings have no metrics."""

    name: str
    metrics: Metrics | None
    style: str = ""
    last: bool = False
    """Whether it is the last one under its heading."""


def _of_report(name: str, report: Report) -> Iterator[_Entry]:
    """Yield one row, or for several categories a heading, their rows, mean and pooled."""
    marks = {
        category: _MARK if category in report.warned else "" for category in report.per_category
    }
    mark = max(marks.values(), default="")
    if len(marks) < 2:
        yield _Entry(name + mark, _with_intervals(report))
        return
    yield _Entry(name, None, "bold")
    for category, metrics in report.per_category.items():
        counted = {**metrics, **report.images.get(category, {})}
        yield _Entry(f"{_INDENT}{category}{marks[category]}", counted)
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
    sampled = any(key.endswith("_low") for entry in entries for key in entry.metrics or ())
    captions = [] if thresholds is None else [thresholds_text(thresholds)]
    captions += [AUDIT_NOTE] if any("⚠" in entry.name for entry in entries) else []
    forms = []
    for level, between in _FORMS:
        shown = [key for key in headlines(level) if any(_has(e, key) for e in entries)]
        rows = [_row(entry, shown, between) for entry in entries]
        if thresholds is not None and thresholds.promised is not None:
            target = f"≤ {thresholds.promised:.3f}"
            cells = [target if key == "false_reject_rate" else "" for key in shown]
            rows.append(Row(["target", *cells], "dim"))
        columns = [Column("", text=True), *(Column(metric_title(key)) for key in shown)]
        legend = [_LEGEND] if sampled and between is not None else []
        forms.append(FittedTable(title, columns, rows, "\n".join([*legend, *captions])))
    return Widest(forms)


def _has(entry: _Entry, key: str) -> bool:
    return entry.metrics is not None and key in entry.metrics


def _row(entry: _Entry, keys: Sequence[str], between: str | None) -> Row:
    if entry.metrics is None:
        return Row([entry.name], entry.style)
    cells = [_cell(entry.metrics, key, between) for key in keys]
    return Row([entry.name, *cells], entry.style, entry.last)


def _cell(metrics: Metrics, key: str, between: str | None) -> Cell:
    """Format a metric, followed by `between`, the count of images of a rate, and the interval.
    Without `between`, omit the interval and put the count below."""
    if key not in metrics:
        return "–"
    more = [str(count) for name, count in rate_counts(metrics).items() if name == key]
    if between is not None and f"{key}_low" in metrics:
        more.append(Interval(metrics[f"{key}_low"], metrics[f"{key}_high"]).text())
    value = f"{metrics[key]:.3f}"
    if between == " ":
        return Text.assemble(value, " ", (": ".join(more), "dim")) if more else value
    return Text.assemble(value, *(("\n" + line, "dim") for line in more)) if more else value
