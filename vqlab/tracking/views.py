"""Shared views of the MLflow UI: which columns and charts its runs page opens with.

The UI (3.17) stores a view in an experiment tag `mlflow.sharedViewState.<key>` and opens it by
`?viewStateShareKey=<key>`. The tag is JSON with `name`, `createdAt` (ms) and `state`, which is
`deflate;` and the base64 of the zlib-compressed page state (`ExperimentPageUIState` and the search
facets of mlflow/server/js).
"""

from __future__ import annotations

import base64
import json
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
"""Sections in which the UI shows all other metrics and pictures by itself: present, but closed."""
_WIDE = {"columns": 1, "cardHeight": 720}
_PART = 60
"""Bytes of each part of a picture's key: MLflow makes a file's name of it."""
_NAME_WIDTH, _WIDTHS = 280, {"metrics": 130, "tags": 115, "params": 150}
"""Pixels of a table's columns, by their kind."""


@dataclass(frozen=True)
class View:
    """One view: its name in the UI's list of saved views, and the state of the page."""

    name: str
    state: Mapping[str, Any]

    def encode(self, created: int) -> str:
        """The tag's value. created: milliseconds since 1970."""
        text = json.dumps(self.state, sort_keys=True).encode()
        state = _DEFLATE + base64.b64encode(zlib.compress(text, 9)).decode()
        return json.dumps({"name": self.name, "createdAt": created, "state": state})


@dataclass(frozen=True)
class Runs:
    """Which runs a view shows, and in which order."""

    where: str
    """A filter in MLflow's query language."""
    order_by: str
    """A metric's key."""
    ascending: bool = False

    @property
    def state(self) -> dict[str, Any]:
        """The search facets."""
        return {
            "searchFilter": self.where,
            "orderByKey": metric(self.order_by),
            "orderByAsc": self.ascending,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
        }


def picture_key(name: str) -> str:
    """`name` as the key of a picture that MLflow takes; a slash stays one. Different names have
    different keys."""
    return "/".join(unique_key(part, r"[^a-zA-Z0-9_\-. ]", _PART) for part in name.split("/"))


def tagged(tags: Mapping[str, str]) -> str:
    """The filter for runs with these tags; it leaves out values with both kinds of quotes, which
    MLflow's query language cannot hold."""
    return " and ".join(
        f"tags.`{name}` = {_quoted(value)}"
        for name, value in tags.items()
        if "'" not in value or '"' not in value
    )


def _quoted(text: str) -> str:
    """Text in MLflow's query language, which has no escapes."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def metric(key: str) -> str:
    """The column of a metric."""
    return f"metrics.`{key}`"


def param(key: str) -> str:
    """The column of a setting."""
    return f"params.`{key}`"


def tag(key: str) -> str:
    """The column of a tag."""
    return f"tags.`{key}`"


NAME, DURATION = "attributes.`Run Name`", "duration"
"""The columns of a run's name and duration, which the UI always shows."""


def table_view(name: str, columns: Sequence[str], runs: Runs) -> View:
    """Runs as a table with these columns, in this order."""
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
    """One chart under a section's heading."""

    section: str
    kind: str
    """As the UI names it: LINE, BAR, SCATTER, IMAGE."""
    settings: Mapping[str, Any]
    wide: bool = False
    """Whether it takes the page's whole width."""


def line(section: str, key: str) -> Chart:
    """A metric by epoch, one line per run."""
    return Chart(section, "LINE", {"metricKey": key, "selectedMetricKeys": [key]})


def bar(section: str, key: str) -> Chart:
    """The last value of a metric, one bar per run."""
    return Chart(section, "BAR", {"metricKey": key})


def scatter(section: str, setting: str, key: str) -> Chart:
    """A metric against a setting, one point per run."""
    axes = {"xaxis": {"key": setting, "type": "PARAM"}, "yaxis": {"key": key, "type": "METRIC"}}
    return Chart(section, "SCATTER", axes)


def pictures(section: str, keys: Sequence[str]) -> Chart:
    """The pictures that runs logged under these keys: a row for each key, a column for each run."""
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
    """Runs as charts, grouped in sections in the order of their first chart; what else the runs
    logged follows in closed sections.

    columns: those of the table that the page can switch to. logged: metrics of the runs, as far as
    known.
    """
    names = list(dict.fromkeys(chart.section for chart in charts))
    ours = {section: f"vqlab-{number}" for number, section in enumerate(names)}
    cards = [
        {
            "uuid": f"{ours[chart.section]}-{number}",
            "type": chart.kind,
            "runsCountToCompare": 100,
            "metricSectionId": ours[chart.section],
            "deleted": False,
            "isGenerated": False,
            **chart.settings,
        }
        for number, chart in enumerate(charts)
    ]
    wide = {chart.section for chart in charts if chart.wide}
    sections = [
        _section(section, uuid) | {"display": True} | (_WIDE if section in wide else {})
        for section, uuid in ours.items()
    ]
    keys = [*logged, *(key for chart in charts for key in chart.settings.get("imageKeys", ()))]
    rooms = (key.rpartition("/")[0] for key in keys)
    closed = [room for room in dict.fromkeys([*_SECTIONS, *rooms]) if room]
    sections += [_section(name, f"more-{name}") | {"display": False} for name in closed]
    table = table_view(name, columns, runs)
    page = {
        "compareRunCharts": cards,
        "compareRunSections": sections,
        "isAccordionReordered": True,  # else the UI sorts sections by name
        "hideEmptyCharts": True,
    }
    return View(name, {**table.state, **page})


def _section(name: str, uuid: str) -> dict[str, Any]:
    own = {"uuid": uuid, "name": name}
    return {**own, "isReordered": True, "deleted": False, "isGenerated": False}
