"""Pages of the MLflow UI: addresses, views and descriptions.

Addresses carry `workflowType=machine_learning` after the `#`; without it, the UI opens the pages
for language models in a new browser.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from urllib.parse import quote, urlencode

from vqlab.tracking.store import Client, store_lock
from vqlab.tracking.views import TAG, View

WORKFLOW = {"workflowType": "machine_learning"}
NOTE = "mlflow.note.content"
"""Tag with the description of a run or experiment, in Markdown."""
_WRITTEN = "mlflow.vqlab.note"
"""Tag of an experiment: the digest of the description that vqlab wrote last; the UI lists no tags
that begin so."""


TESTED_TABLE, TESTED_CHARTS = "tested-runs-table", "tested-runs-charts"
"""Keys of the views of an experiment's runs that were measured on test."""


def route(path: str, **query: str) -> str:
    """Return the address of a page relative to the server:
    `#/path?workflowType=machine_learning&…`."""
    return f"#/{path}?{urlencode({**WORKFLOW, **query})}"


def run_route(experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page, relative to the server."""
    return route(f"experiments/{experiment_id}/runs/{run_id}")


def compare_route(experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the address of the page that compares runs of an experiment, relative to the
    server."""
    query = {"runs": json.dumps(list(run_ids)), "experiments": json.dumps([experiment_id])}
    return f"#/compare-runs?{urlencode({**query, **WORKFLOW})}"  # the UI needs `runs` first


def picture_address(run_id: str, path: str) -> str:
    """Return the address of an artifact, relative to the server, for pictures in descriptions."""
    return f"get-artifact?path={quote(path, safe='/')}&run_uuid={run_id}"


class ExperimentPages:
    """UI pages of one experiment. Writes are idempotent and safe for concurrent processes."""

    def __init__(self, client: Client, experiment_id: str) -> None:
        self._client = client
        self.experiment_id = experiment_id

    def link(self, relative: str) -> str:
        """Return the absolute address of a page of this store's UI."""
        return f"{self._client.store.web}/{relative}"

    def run(self, run_id: str) -> str:
        """Return the address of a run's page, relative to the server."""
        return run_route(self.experiment_id, run_id)

    def table(self, key: str) -> str:
        """Return the address of the view `key` as a table, relative to the server."""
        return self._view(key, "TABLE")

    def charts(self, key: str) -> str:
        """Return the address of the view `key` as charts, relative to the server."""
        return self._view(key, "CHART")

    def _view(self, key: str, mode: str) -> str:
        path = f"experiments/{self.experiment_id}/runs"
        return route(path, viewStateShareKey=key, compareRunsMode=mode)

    def has_view(self, key: str) -> bool:
        """Return whether the view `key` is stored."""
        return TAG + key in self._tags()

    def save(self, views: Mapping[str, View]) -> None:
        """Store views under keys of `[\\w-]`; existing identical views are kept."""
        with self._lock():
            tags = self._tags()
            for key, view in views.items():
                before = tags.get(TAG + key, "")
                if before != view.encode(_created(before)):
                    self._set(TAG + key, view.encode(int(time.time() * 1000)))

    def describe(self, text: str) -> None:
        """Write the description of the experiment, unless a user edited it."""
        with self._lock():
            tags = self._tags()
            before = tags.get(NOTE, "")
            if before == text or (before and tags.get(_WRITTEN) != _digest(before)):
                return
            self._set(_WRITTEN, _digest(text))
            self._set(NOTE, text)

    def _lock(self) -> AbstractContextManager[object]:
        return store_lock(self._client.store, "pages")

    def _tags(self) -> dict[str, str]:
        return dict(self._client.get_experiment(self.experiment_id).tags)

    def _set(self, key: str, value: str) -> None:
        self._client.set_experiment_tag(self.experiment_id, key, value)


def _created(stored: str) -> int:
    try:
        return int(json.loads(stored)["createdAt"])
    except (ValueError, TypeError, KeyError):
        return 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
