"""Shared views of the MLflow UI: columns and charts of its page of runs.

The UI (3.17) stores a view in an experiment tag `mlflow.sharedViewState.<key>` and opens it by
`?viewStateShareKey=<key>`. The tag is JSON with `name`, `createdAt` (ms) and `state`, which is
`deflate;` and the base64 of the zlib-compressed page state (`ExperimentPageUIState` and the search
facets of mlflow/server/js).
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vqlab.text import unique_key

TAG = "mlflow.sharedViewState."
_DEFLATE = "deflate;"
_SECTIONS = (
    "test", "validation", "train", "test_mean_image", "Model metrics", "System metrics",
)  # fmt: skip
"""Sections that the UI generates for all other metrics and pictures; shown collapsed."""
_PART = 60
"""Bytes of each part of a picture's key, which MLflow uses in a file name."""
_NAME_WIDTH, _WIDTHS = 280, {"metrics": 130, "tags": 115, "params": 150}
"""Width of a table's columns in pixels, by kind."""


@dataclass(frozen=True)
class View:
    """A view: its name in the UI's list of saved views, and the state of the page."""

    name: str
    state: Mapping[str, Any]

    def encode(self, created: int) -> str:
        """Return the value of the tag. created: milliseconds since 1970."""
        text = json.dumps(self.state, sort_keys=True).encode()
        state = _DEFLATE + base64.b64encode(zlib.compress(text, 9)).decode()
        return json.dumps({"name": self.name, "createdAt": created, "state": state})


@dataclass(frozen=True)
class Runs:
    """The runs of a view, and their order."""

    where: str
    """Filter in MLflow's query language."""
    order_by: str
    """Key of a metric."""
    ascending: bool = False

    @property
    def state(self) -> dict[str, Any]:
        return {
            "searchFilter": self.where,
            "orderByKey": metric(self.order_by),
            "orderByAsc": self.ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
        }


def picture_key(name: str) -> str:
    """Return a valid MLflow key for the picture `name`, slashes unchanged. Different names have
    different keys."""
    return "/".join(unique_key(part, r"[^a-zA-Z0-9_\-. ]", _PART) for part in name.split("/"))


def logged_picture(path: str) -> tuple[str, int] | None:
    """Return key and step of a picture from the path of its artifact; None for other files."""
    # MLflow names them images/<key with ~ for />+step+<step>+timestamp+…
    match = re.match(r"(.+)\+step\+(\d+)\+", path.rpartition("/")[2])
    return (match[1].replace("~", "/"), int(match[2])) if match else None


def tagged(tags: Mapping[str, str]) -> str:
    """Return the filter for runs with these tags, without values that contain both kinds of quotes,
    since MLflow's query language has no escapes."""
    filters = []
    for name, value in tags.items():
        quote = '"' if "'" in value else "'"
        if quote not in value:
            filters.append(f"tags.`{name}` = {quote}{value}{quote}")
    return " and ".join(filters)


def metric(key: str) -> str:
    """Return the column of a metric."""
    return f"metrics.`{key}`"


def param(key: str) -> str:
    """Return the column of a setting."""
    return f"params.`{key}`"


def tag(key: str) -> str:
    """Return the column of a tag."""
    return f"tags.`{key}`"


NAME, DURATION = "attributes.`Run Name`", "duration"
"""Columns of a run's name and duration, which the UI always shows."""


def table_view(name: str, columns: Sequence[str], runs: Runs) -> View:
    """Return a view of runs as a table with these columns."""
    widths = {NAME: _NAME_WIDTH, **{c: _WIDTHS.get(c.partition(".")[0], 90) for c in columns}}
    page = {
        "selectedColumns": list(columns),
        "columnOrder": [NAME, *columns],
        "columnWidths": widths,
        "runsHiddenMode": "SHOW_ALL",
    }
    return View(name, {**runs.state, **page})


@dataclass(frozen=True)
class Chart:
    """A chart in a section of the page."""

    section: str
    kind: str
    """Type in the UI: LINE, BAR, SCATTER, IMAGE."""
    settings: Mapping[str, Any]
    wide: bool = False
    """Whether it takes the whole width of the page."""


def line(section: str, key: str) -> Chart:
    """Return a chart of a metric by epoch, one line per run."""
    return Chart(section, "LINE", {"metricKey": key, "selectedMetricKeys": [key]})


def bar(section: str, key: str) -> Chart:
    """Return a chart of the last value of a metric, one bar per run."""
    return Chart(section, "BAR", {"metricKey": key})


def scatter(section: str, setting: str, key: str) -> Chart:
    """Return a chart of a metric against a setting, one point per run."""
    axes = {"xaxis": {"key": setting, "type": "PARAM"}, "yaxis": {"key": key, "type": "METRIC"}}
    return Chart(section, "SCATTER", axes)


def pictures(section: str, keys: Sequence[str]) -> Chart:
    """Return a grid of the pictures logged under these keys: a row per key, a column per run."""
    names = [picture_key(key) for key in keys]
    settings = {"imageKeys": names, "step": 0, "showRunParams": False}
    return Chart(section, "IMAGE", settings, wide=True)


def chart_view(
    name: str,
    charts: Sequence[Chart],
    runs: Runs,
    columns: Sequence[str],
    logged: Iterable[str] = (),
) -> View:
    """Return a view of runs as charts, in sections ordered by their first chart; other metrics and
    pictures of the runs follow in collapsed sections.

    columns: of the table view of the same page. logged: known metrics of the runs.
    """
    names = dict.fromkeys(chart.section for chart in charts)
    uuids = {section: f"vqlab-{number}" for number, section in enumerate(names)}
    cards = [
        {
            "uuid": f"{uuids[chart.section]}-{number}",
            "type": chart.kind,
            "runsCountToCompare": 100,
            "metricSectionId": uuids[chart.section],
            "deleted": False,
            "isGenerated": False,
            **chart.settings,
        }
        for number, chart in enumerate(charts)
    ]
    sections = [_section(name, uuid, display=True) for name, uuid in uuids.items()]
    for section in sections:
        if any(chart.wide for chart in charts if chart.section == section["name"]):
            section |= {"columns": 1, "cardHeight": 720}
    keys = [*logged, *(key for chart in charts for key in chart.settings.get("imageKeys", ()))]
    names = dict.fromkeys([*_SECTIONS, *(key.rpartition("/")[0] for key in keys)])
    sections += [_section(name, f"more-{name}", display=False) for name in names if name]
    table = table_view(name, columns, runs)
    page = {
        "compareRunCharts": cards,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # else the UI sorts sections by name
        "hideEmptyCharts": True,
    }
    return View(name, {**table.state, **page})


def _section(name: str, uuid: str, display: bool) -> dict[str, Any]:
    flags = {"isReordered": True, "deleted": False, "isGenerated": False}
    return {"uuid": uuid, "name": name, **flags, "display": display}
