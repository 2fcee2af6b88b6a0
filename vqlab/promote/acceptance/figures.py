"""Test metrics of the model, the champion and the baseline."""

from __future__ import annotations

from collections.abc import Mapping

from vqlab.html_page import escape, paragraph, table
from vqlab.metrics import (
    ANOMALOUS_IMAGES,
    NORMAL_IMAGES,
    headlines,
    lower_is_better,
    metric_title,
    of_split,
    rate_counts,
)
from vqlab.text import unique_key
from vqlab.tracking import RunRecord

Metrics = Mapping[str, float]
_LEGEND = "↓: lower is better. [a, b]: 95 % interval; of rates exact, of others by bootstrap."


def metrics_table(record: RunRecord, champion: Metrics, champion_name: str) -> str:
    """Return one row per metric; champion: its test metrics by key, empty if there are none."""
    columns = {
        "this model": of_split(record.metrics, "test"),
        champion_name: of_split(champion, "test"),
    }
    columns["mean_image (baseline)"] = of_split(record.metrics, "test_mean_image")
    columns = {name: metrics for name, metrics in columns.items() if metrics}
    names = [n for n in headlines(4) if any(n in metrics for metrics in columns.values())]
    if not names:
        return paragraph("The data have no test images; nothing was measured on real defects.")
    rows = [
        [escape(_title(name)), *(_value(metrics, name) for metrics in columns.values())]
        for name in names
    ]
    counts = columns.get("this model", {})
    images = [int(counts.get(key, 0)) for key in (NORMAL_IMAGES, ANOMALOUS_IMAGES)]
    text = f"{images[0]} normal and {images[1]} anomalous images. {_LEGEND}"
    return table(("metric", *columns), rows) + paragraph(text if sum(images) else _LEGEND, "muted")


def category_table(record: RunRecord) -> str:
    """Return the metrics of each category of a joint model; empty for a single category."""
    if len(record.categories) < 2:
        return ""
    rows = []
    for name in record.categories:
        metrics = of_split(record.metrics, f"test/{unique_key(name)}")
        rows.append([escape(name), *(_value(metrics, metric) for metric in headlines(1))])
    return "<h3>By category</h3>" + table(("category", *map(_title, headlines(1))), rows)


def _title(name: str) -> str:
    return metric_title(name) + (" ↓" if lower_is_better(name) else "")


def _value(metrics: Metrics, name: str) -> str:
    """Return value, count of images and interval as markup."""
    if name not in metrics:
        return ""
    text = f"{metrics[name]:.4f}"
    counts = rate_counts(metrics)
    text += f" ({counts[name]})" if name in counts else ""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    if low is not None and high is not None:
        text += f" [{low:.3f}, {high:.3f}]"
    return escape(text)
