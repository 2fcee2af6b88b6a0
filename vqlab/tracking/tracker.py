"""The tracker: start, resume, find and link runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Run as Stored
from mlflow.entities import RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from vqlab.errors import UserError
from vqlab.text import shorten, visible, without_password
from vqlab.tracking.categories import Category, category_tags
from vqlab.tracking.environment import code_tags, environment_info, user_name
from vqlab.tracking.errors import first_line
from vqlab.tracking.experiments import Experiments
from vqlab.tracking.liveness import delete_locks, owner_is_gone, owner_tags
from vqlab.tracking.pages import ExperimentPages, run_route
from vqlab.tracking.record import RunRecord
from vqlab.tracking.reference import match_run, no_such_run
from vqlab.tracking.registry import Champion, Registry
from vqlab.tracking.run import Run, Status, clear_failure
from vqlab.tracking.run_query import make_record, stored_runs
from vqlab.tracking.store import Client, all_pages, connect, locate, store_lock
from vqlab.tracking.stored_form import stored_tags
from vqlab.tracking.views import tagged

_PAGE = 1000
_NAME_LENGTH = 200


class Tracker:
    """All runs of one store: `mlruns/`, or the store named by MLFLOW_TRACKING_URI."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._experiments = Experiments(client)
        self._artifact_uris: dict[str, str] = {}
        """Artifact URIs of runs started by this object."""
        self.registry = Registry(client)
        """Registered versions and champions."""

    @classmethod
    def open(
        cls, root: Path = Path("mlruns"), *, create: bool = True, write: bool = True
    ) -> Tracker:
        """Open the store and mark runs whose process was killed (see `reconcile`).

        create: create a missing store (takes seconds); otherwise a missing store is a UserError.
        write: False also accepts a store without write permission, for reading.

        Raises UserError if the store cannot be written or reached, or its address is unsupported.
        """
        tracker = cls(connect(locate(root), create, write))
        tracker.reconcile()
        return tracker

    @property
    def is_copy(self) -> bool:
        """Whether runs are read from a copy, taken at opening, of a store without write
        permission."""
        return self._client.store.copy is not None

    @property
    def root(self) -> Path:
        """The folder on this machine that holds everything of this store (absolute)."""
        return self._client.store.root

    # write runs

    def start(
        self,
        *,
        experiment: str,
        name: str,
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        parent: str | None = None,
        device: str = "cpu",
        system_metrics: bool = False,
    ) -> Run:
        """Start a run in `experiment` (a category, or `all`), nested under the run ID `parent`.

        Besides `tags` and `params` (flat), log the owner process, the commit of the code and the
        environment (also as artifact environment.json).
        """
        environment = environment_info()
        environment_tags = {
            f"vqlab.{key}": str(environment[key]) for key in ("python", "torch", "cpu", "threads")
        }
        all_tags = {
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": "vqlab",
            "mlflow.user": user_name(),
            "vqlab.version": str(environment["vqlab"]),
            "vqlab.device": device,
            **environment_tags,
            **code_tags(),
            **owner_tags(self.root),
            **({"mlflow.parentRunId": parent} if parent else {}),
            **stored_tags(tags or {}),
        }
        try:
            stored = self._experiments.create_run(
                experiment, all_tags, shorten(visible(name), _NAME_LENGTH)
            )
        except MlflowException as error:
            raise UserError(f"run {name} could not be created: {first_line(error)}") from error
        run = Run(self._client, stored.info.run_id, system_metrics=system_metrics, info=stored.info)
        self._artifact_uris[run.id] = stored.info.artifact_uri
        run.log_params(params or {})
        run.log_json({**environment, "device": device}, "environment.json")
        return run

    def resume(
        self, reference: str, *, system_metrics: bool = False, take_over: bool = False
    ) -> Run:
        """Resume an interrupted run (see `find`): set it to RUNNING, owned by this process.

        Steps logged before are not logged again. take_over: resume even if the state of its
        process is unknown. Raises UserError if the run is complete or its process may be alive.
        """
        with store_lock(self._client.store, "resume"):  # of two concurrent calls the second fails
            record = self.find(reference)
            if record.status == "FINISHED":
                raise UserError(f"run {record.short} is complete; there is nothing to resume.")
            may_live = record.status == "RUNNING" and not owner_is_gone(record.tags, self.root)
            if may_live and not take_over:
                raise UserError(
                    f"run {record.short} is still being written by process "
                    f"{record.tags.get('vqlab.pid', '?')} on {record.tags.get('vqlab.host', '?')}; "
                    "wait for it, or end it first; if that machine or container is gone, add "
                    "--take-over."
                )
            self.reopen(record.run_id)
        return Run(self._client, record.run_id, resumed=True, system_metrics=system_metrics)

    def reconcile(self) -> list[RunRecord]:
        """Mark runs whose process was killed as FAILED (`interrupted`); return them as they were.

        Runs whose process may be alive are unchanged: see `vqlab.tracking.liveness`.
        """
        running = self._search("attributes.status = 'RUNNING'")
        orphaned = [r for r in running if owner_is_gone(r.tags, self.root)]
        # Read again: a process may have finished its run and ended in between.
        orphaned = [r for r in orphaned if self._client.get_run(r.run_id).info.status == "RUNNING"]
        for record in orphaned:
            self._client.set_tag(record.run_id, "vqlab.failure", "interrupted")
            self._client.set_terminated(record.run_id, status="FAILED")
        marked = {record.run_id for record in orphaned}
        delete_locks(self.root, (r.tags for r in running if r.run_id not in marked))
        return orphaned

    def run_folder(self, run_id: str) -> Path:
        """Return the local folder for files of a run that are not artifacts; it may not exist."""
        return self._client.store.run_folder(run_id)

    # read runs

    def find(self, reference: str) -> RunRecord:
        """Return the run with this ID, unique ID prefix (4 or more characters) or unique name.

        Names include those of `other_names`. Raises UserError that lists the matching, similar or
        latest runs.
        """
        reference = visible(reference)  # the stored form of names
        if re.fullmatch("[0-9a-f]{32}", reference):  # avoids reading all runs
            for record in self._search(f"attributes.run_id = '{reference}'"):
                return record
        records = self.runs()
        match = match_run(reference, records)
        if match is None:
            self._refuse_deleted(reference)
            raise no_such_run(reference, records, self.root)
        return match

    def get(self, run_id: str) -> RunRecord | None:
        """Return the run with this ID, even if it was deleted in the UI; None after `mlflow gc`."""
        try:
            run = self._client.get_run(run_id)
            experiment = self._client.get_experiment(run.info.experiment_id).name
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return self._record(run, experiment)

    def _refuse_deleted(self, reference: str) -> None:
        """Raise UserError if a deleted run matches, with the command that restores it."""
        every = self._client.search_experiments(ViewType.ALL, max_results=_PAGE)
        experiments = {experiment.experiment_id: experiment for experiment in every}
        if not experiments:
            return
        for run in self._client.search_runs(list(experiments), "", ViewType.DELETED_ONLY, _PAGE):
            record = self._record(run, "")
            if match_run(reference, [record]) is None:
                continue
            experiment = experiments[run.info.experiment_id]
            how = f"mlflow runs restore --run-id {record.run_id}"
            message = f"run {record.name} ({record.run_id[:8]}) was deleted"
            if experiment.lifecycle_stage == "deleted":
                how = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
                message += f" with its experiment {experiment.name}"
            uri = "" if self._client.store.artifacts is None else (
                f"MLFLOW_TRACKING_URI={without_password(self._client.store.uri)} "
            )  # fmt: skip
            raise UserError(f"{message}; restore it in the MLflow UI, or with: {uri}{how}")

    def history(self, run_id: str, prefixes: tuple[str, ...]) -> list[dict[str, float]]:
        """Return the logged metrics with these key prefixes, one dict per step."""
        steps: dict[int, dict[str, float]] = {}
        for key in self._client.get_run(run_id).data.metrics:
            if key.startswith(prefixes):
                for metric in self._client.get_metric_history(run_id, key):
                    steps.setdefault(metric.step, {})[key] = metric.value
        return [steps[step] for step in sorted(steps)]

    def runs(
        self, *, kinds: Iterable[str] | None = None, tags: Mapping[str, str] | None = None
    ) -> list[RunRecord]:
        """Return runs, newest first, filtered by tag `vqlab.kind` and by `tags`."""
        required = stored_tags(tags or {})
        if self._client.store.artifacts is None:  # a server
            records = self._search(tagged(required))
        else:
            records = stored_runs(self._client, required)
        # The database may ignore case, and the query omits values that cannot be quoted.
        records = [r for r in records if required.items() <= r.tags.items()]
        if kinds is not None:
            allowed = set(kinds)
            records = [r for r in records if r.tags.get("vqlab.kind") in allowed]
        return records

    def _search(self, query: str) -> list[RunRecord]:
        experiments = self._client.search_experiments(max_results=_PAGE)
        names = {experiment.experiment_id: experiment.name for experiment in experiments}
        if not names:
            return []
        runs = all_pages(self._client.search_runs, list(names), query, max_results=_PAGE)
        return [self._record(run, names[run.info.experiment_id]) for run in runs]

    def _record(self, run: Stored, experiment: str) -> RunRecord:
        info, data = run.info, run.data
        row = (
            info.run_id, info.run_name, experiment, info.status, info.start_time, info.end_time,
            info.artifact_uri,
        )  # fmt: skip
        return make_record(
            self._client, row, dict(data.tags), dict(data.params), dict(data.metrics)
        )

    def champion(self, category: Category) -> Champion:
        """Return the champion of a category with a local checkpoint.

        `a+b` is the joint model of a and b, unless a category has that name. Raises UserError if
        there is no champion, or its file is missing or differs.
        """
        if isinstance(category, str) and "+" in category:
            runs = self.runs(tags=category_tags([category]))
            return self.registry.champion([category] if runs else category)
        return self.registry.champion(category)

    # modify ended runs

    def amend(self, run_id: str, *, repeated: bool = False) -> Run:
        """Return an ended run for adding metrics, tags and artifacts; its status stays.

        repeated: the work is repeated, so that steps logged before are not logged again.
        """
        return Run(self._client, run_id, resumed=repeated)

    def reopen(self, run_id: str) -> None:
        """Set a run to RUNNING, owned by this process."""
        owner = [RunTag(name, tag) for name, tag in owner_tags(self.root).items()]
        self._client.log_batch(run_id, tags=owner)
        self._client.update_run(run_id, status="RUNNING")
        clear_failure(self._client, run_id)

    def set_status(
        self, run_id: str, status: Status, tags: Mapping[str, str], current: str | None = None
    ) -> None:
        """Correct the status of an ended run and add tags. current: its stored status, if known."""
        stored = [RunTag(name, tag) for name, tag in stored_tags(tags).items()]
        if stored:
            self._client.log_batch(run_id, tags=stored)
        if status == "FINISHED":
            clear_failure(self._client, run_id)
        if (current or self._client.get_run(run_id).info.status) != status:
            self._client.set_terminated(run_id, status=status)

    def delete_artifact(self, run_id: str, path: str) -> None:
        """Delete an artifact (file or folder) of a run, if it exists."""
        uri = self._artifact_uris.get(run_id) or self._client.get_run(run_id).info.artifact_uri
        with contextlib.suppress(MlflowException, OSError):
            get_artifact_repository(uri, self._client.store.uri).delete_artifacts(path)

    # links

    def link(self, run_id: str) -> str:
        """Return the address of a run in the UI."""
        experiment = self._client.get_run(run_id).info.experiment_id
        return f"{self._client.store.web}/{run_route(experiment, run_id)}"

    def pages(self, experiment: str) -> ExperimentPages:
        """Return the UI pages of an experiment; create it if necessary."""
        return ExperimentPages(self._client, self._experiments.require(experiment))
