"""All runs of a store, their champions and charts. An SQL store is read without MLflow, which takes
seconds to import and to open a store. The tables are those of MLflow 3.17.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from vqlab.tracking.liveness import owner_is_gone
from vqlab.tracking.pages import TESTED_CHARTS, ExperimentPages
from vqlab.tracking.record import RunRecord
from vqlab.tracking.run_query import read_runs
from vqlab.tracking.store import Client, Store, locate, readable, require_store
from vqlab.tracking.views import TAG

_CHAMPIONS = """
    SELECT v.run_id FROM registered_model_aliases a JOIN model_versions v
    ON v.name = a.name AND v.version = a.version AND v.workspace = a.workspace
    WHERE a.alias = 'champion'"""
_WITH_CHARTS = """
    SELECT e.name, e.experiment_id FROM experiments e JOIN experiment_tags t
    ON t.experiment_id = e.experiment_id WHERE t.key = :key"""


@dataclass(frozen=True)
class Overview:
    """Content of a table of all runs."""

    runs: list[RunRecord]
    """Newest first."""
    champions: frozenset[str]
    """Run IDs of the champions of all categories."""
    charts: Mapping[str, str]
    """Address of the charts of tested runs in the MLflow UI, by experiment."""


def read_overview(root: Path) -> Overview:
    """Read an existing store, and mark runs whose process was killed (see `Tracker.open`).

    Raises UserError as `Tracker.open`.
    """
    store = locate(root)
    if store.artifacts is not None:
        require_store(store)
        with contextlib.suppress(SQLAlchemyError):  # explained by MLflow: see below
            overview = _read_tables(readable(store))
            running = [run for run in overview.runs if run.status == "RUNNING"]
            if not any(owner_is_gone(run.tags, store.root) for run in running):
                return overview
    return _read_with_mlflow(root)


def _read_tables(store: Store) -> Overview:
    engine = sqlalchemy.create_engine(store.uri)
    client = Client(store)
    try:
        with engine.connect() as connection:
            runs = read_runs(connection, client)
            champions = frozenset(connection.execute(text(_CHAMPIONS)).scalars())
            experiments = connection.execute(text(_WITH_CHARTS), {"key": TAG + TESTED_CHARTS})
            pages = {name: ExperimentPages(client, str(number)) for name, number in experiments}
    finally:
        engine.dispose()
    return Overview(runs, champions, {name: _charts(page) for name, page in pages.items()})


def _read_with_mlflow(root: Path) -> Overview:
    from vqlab.tracking.tracker import Tracker

    tracker = Tracker.open(root, create=False, write=False)
    runs = tracker.runs()
    versions = map(tracker.registry.by_alias, {run.categories for run in runs})
    pages = {name: tracker.pages(name) for name in {run.experiment for run in runs}}
    return Overview(
        runs,
        frozenset(version.run_id for version in versions if version is not None),
        {name: _charts(page) for name, page in pages.items() if page.has_view(TESTED_CHARTS)},
    )


def _charts(page: ExperimentPages) -> str:
    return page.link(page.charts(TESTED_CHARTS))
