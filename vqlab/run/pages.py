"""Views of an experiment in the MLflow UI: tested runs as a table and as charts."""

from __future__ import annotations

from vqlab.data import Splits
from vqlab.metrics import PRIMARY
from vqlab.run.test_set import example_pictures
from vqlab.tracking import TESTED_CHARTS, TESTED_TABLE, Tracker
from vqlab.tracking.views import (
    DURATION,
    Runs,
    bar,
    chart_view,
    metric,
    param,
    pictures,
    table_view,
    tag,
)

TEST_METRICS = (*(f"test/{name}" for name in PRIMARY), "test/escape_rate")
"""Metrics in comparisons of tested runs."""
PICTURES = 8
"""Maximum number of test pictures in a view."""


def show_experiment(tracker: Tracker, splits: Splits, experiment: str) -> None:
    """Store the views of an experiment if there are test images; existing views do not change."""
    labels = {record.label for record in splits.test.records}
    if not labels:
        return
    rates = {frozenset([0]): "test/false_reject_rate", frozenset([1]): "test/escape_rate"}
    first = rates.get(frozenset(labels), TEST_METRICS[0])
    runs = Runs(f"metrics.`{first}` >= 0", first)
    columns = [
        *map(tag, ("vqlab.kind", "vqlab.detector")),
        *map(metric, TEST_METRICS),
        *map(param, ("features.backbone", "data.image_size", "training.epochs", "training.seed")),
        DURATION,
    ]
    charts = [
        *(bar("Test figures", key) for key in TEST_METRICS),
        pictures("Test pictures", list(example_pictures(splits))[:PICTURES]),
    ]
    views = {
        TESTED_TABLE: table_view("Tested runs", columns, runs),
        TESTED_CHARTS: chart_view("Tested runs: charts and pictures", charts, runs, columns),
    }
    tracker.pages(experiment).save(views)
