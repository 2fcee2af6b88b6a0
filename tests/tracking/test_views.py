"""Views are stored in the format of the MLflow UI."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import zlib
from typing import Any

import pytest

from vqlab.tracking import NOTE, Tracker, views


def stored_views(tracker: Tracker, experiment: str = "cable") -> dict[str, tuple[str, int, Any]]:
    """Return name, time and state of every view, decoded as in the UI."""
    tags = tracker._client.get_experiment_by_name(experiment).tags
    views = {}
    for key, text in tags.items():
        if key.startswith("mlflow.sharedViewState."):
            tag = json.loads(text)
            kind, _, packed = tag["state"].partition(";")
            assert kind == "deflate" and len(text) < 20_000
            state = json.loads(zlib.decompress(base64.b64decode(packed)))
            views[key.rpartition(".")[2]] = tag["name"], tag["createdAt"], state
    return views


def test_views_are_stored_once_in_the_format_of_the_ui(tracker: Tracker) -> None:
    runs = views.Runs(views.tagged({"vqlab.study": "S'1"}), "objective", ascending=True)
    columns = [views.tag("optuna.state"), views.metric("objective"), views.param("a.b")]
    charts = [
        views.line("One", "validation/pixel_auroc"),
        views.scatter("Two", "a.b", "objective"),
        views.bar("One", "objective"),
        views.pictures("Three", ["part/bent_wire", "part/ünfit"]),
    ]
    both = {
        "t": views.table_view("table", columns, runs),
        "c": views.chart_view("charts", charts, runs, columns, ["cost/parameters"]),
    }
    pages = tracker.pages("cable")
    pages.save(both)
    first = stored_views(tracker)
    name, created, state = first["t"]
    assert name == "table" and abs(created / 1000 - time.time()) < 60
    assert state["searchFilter"] == """tags.`vqlab.study` = "S'1\""""
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`objective`", True)
    assert state["selectedColumns"] == columns
    state = first["c"][2]
    sections = {section["uuid"]: section for section in state["compareRunSections"]}
    displayed = [section["name"] for section in sections.values() if section["display"]]
    assert displayed == ["One", "Two", "Three"]
    closed = {section["name"] for section in sections.values() if not section["display"]}
    assert {"test", "cost", "part", "Model metrics"} <= closed
    cards = state["compareRunCharts"]
    assert [(card["type"], sections[card["metricSectionId"]]["name"]) for card in cards] == [
        ("LINE", "One"), ("SCATTER", "Two"), ("BAR", "One"), ("IMAGE", "Three"),
    ]  # fmt: skip
    assert len({card["uuid"] for card in cards}) == 4
    assert cards[3]["imageKeys"] == ["part/bent_wire", views.picture_key("part/ünfit")]
    time.sleep(0.002)
    pages.save(both)
    assert stored_views(tracker) == first
    pages.save({"t": views.table_view("table", columns[:1], runs)})
    changed = stored_views(tracker)
    assert changed["c"] == first["c"] and changed["t"][2]["selectedColumns"] == columns[:1]


@pytest.mark.slow
def test_several_processes_store_views_concurrently(tracker: Tracker) -> None:
    tracker.pages("cable")
    program = (
        "import sys; from pathlib import Path\n"
        "from vqlab.tracking import Tracker, views\n"
        "pages = Tracker.open(Path(sys.argv[1])).pages('cable')\n"
        "runs = views.Runs('', 'objective')\n"
        "for i in range(10):\n"
        "    pages.save({f'v{i}': views.table_view(f'view {i}', [], runs)})\n"
        "    pages.describe(sys.argv[2])\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tracker.root), name])
        for name in ("one", "two", "three")
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert stored_views(tracker).keys() == {f"v{i}" for i in range(10)}
    assert tracker._client.get_experiment_by_name("cable").tags[NOTE] in ("one", "two", "three")
