"""Delete runs with their artifacts.

A run is first marked as deleted in the store, in one transaction, so it is never listed without its
artifacts; then the artifacts are deleted. If the process is killed in between, the next deletion
deletes the artifacts that remain.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Sequence

from mlflow.entities import LoggedModel, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from vqlab.errors import UserError
from vqlab.tracking.record import RunRecord
from vqlab.tracking.store import all_pages, store_lock
from vqlab.tracking.tracker import Tracker

_TAG = "vqlab.deleted_with_artifacts"


def not_deletable(tracker: Tracker, runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return the reasons why runs must not be deleted, by run ID: they are being written, or have a
    registered version."""
    versions: dict[str, list[str]] = {}
    for version in _versions(tracker, runs):
        name = f"version {version.version} of {version.name}"
        versions.setdefault(version.run_id, []).append(name)
    reasons = {run_id: f"it is {', '.join(names)}" for run_id, names in versions.items()}
    writing = {run.run_id: "it is being written" for run in runs if run.status == "RUNNING"}
    return {**reasons, **writing}


def _versions(tracker: Tracker, runs: Sequence[RunRecord]) -> list[ModelVersion]:
    ids = {run.run_id for run in runs}
    versions = all_pages(tracker._client.search_model_versions, max_results=1000) if ids else ()
    return [version for version in versions if version.run_id in ids]


def require_deletable(tracker: Tracker, runs: Sequence[RunRecord]) -> None:
    """Raise UserError if a run is being written, or has a registered version."""
    reasons = not_deletable(tracker, runs)
    for run in runs:
        if run.run_id in reasons:
            remedy = "end it" if run.status == "RUNNING" else (
                "delete the version in the MLflow UI first, if no rollback to it is needed"
            )  # fmt: skip
            raise UserError(
                f"run {run.short} must not be deleted: {reasons[run.run_id]}; {remedy}."
            )


def delete_runs(tracker: Tracker, runs: Sequence[RunRecord]) -> None:
    """Delete runs, and remains of interrupted deletions. Raises as `require_deletable`, before
    anything is deleted."""
    client = tracker._client
    with store_lock(client.store, "registry"):  # none of them is promoted in the meantime
        require_deletable(tracker, runs)
        for run in runs:
            client.set_tag(run.run_id, _TAG, "true")
            client.delete_run(run.run_id)
    _delete_artifacts(tracker, (run.run_id for run in runs))
    complete_deletions(tracker)


def complete_deletions(tracker: Tracker) -> None:
    """Delete the artifacts of runs whose deletion was interrupted."""
    client = tracker._client
    experiments = client.search_experiments(ViewType.ALL, max_results=1000)
    ids = [experiment.experiment_id for experiment in experiments]
    query = f"tags.`{_TAG}` = 'true'"
    deleted = client.search_runs(ids, query, ViewType.DELETED_ONLY, 1000) if ids else []
    _delete_artifacts(tracker, (run.info.run_id for run in deleted))


def _delete_artifacts(tracker: Tracker, run_ids: Iterable[str]) -> None:
    """Delete the artifacts of deleted runs and of their MLflow models."""
    run_ids = set(run_ids)
    for model in _models(tracker, run_ids):
        uri = tracker._client.store.uri
        with contextlib.suppress(MlflowException, OSError):  # deleted before
            get_artifact_repository(model.artifact_location, uri).delete_artifacts()
        tracker._client.delete_logged_model(model.model_id)
    for run_id in run_ids:
        shutil.rmtree(tracker.run_folder(run_id), ignore_errors=True)
        try:
            tracker.delete_artifact(run_id, "")
        except MlflowException:  # purged by `mlflow gc`
            continue


def _models(tracker: Tracker, run_ids: set[str]) -> list[LoggedModel]:
    """Return the MLflow models of runs, which have no version or whose registration was killed."""
    client = tracker._client
    ids = [each.experiment_id for each in client.search_experiments(ViewType.ALL, max_results=1000)]
    models = all_pages(client.search_logged_models, ids) if ids else ()
    return [model for model in models if model.source_run_id in run_ids]
