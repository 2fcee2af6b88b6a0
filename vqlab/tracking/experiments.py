"""Experiments of a store, created or restored when a run needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from vqlab.text import unique_key
from vqlab.tracking.store import Client

_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI show the pages of model training rather than those of language models."""


class Experiments:
    """Experiments by name; their IDs are looked up once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ids: dict[str, str] = {}

    def create_run(self, experiment: str, tags: Mapping[str, str], name: str) -> Run:
        """Create a run; look its experiment up again if it has been deleted."""
        experiment_id = self._ids.get(experiment)
        if experiment_id is not None:
            with contextlib.suppress(MlflowException):
                return self._client.create_run(experiment_id, tags=tags, run_name=name)
        self._ids[experiment] = self.require(experiment)
        return self._client.create_run(self._ids[experiment], tags=tags, run_name=name)

    def require(self, name: str) -> str:
        """Return the ID of the experiment `name`; create or restore it if necessary."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None and experiment.name != name:  # a case-insensitive database
            return self.require(unique_key(name, with_digest=True))
        if experiment is None:
            experiment = self._create(name)
        elif experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _create(self, name: str) -> Experiment:
        artifacts = self._client.store.artifacts
        folder = unique_key(name, r"[^a-zA-Z0-9_\-]")
        location = (artifacts / folder).as_uri() if artifacts else None
        try:
            self._client.create_experiment(name, artifact_location=location, tags=_TAGS)
        except MlflowException as error:  # created by another process
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self._client.get_experiment_by_name(name)
