"""The tracker: starts runs, resumes them, finds them again, and says where to look at them."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow.entities import Experiment, RunTag, ViewType
from mlflow.entities import Run as Stored
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from vqlab.errors import UserError
from vqlab.text import shorten, unique_key, visible
from vqlab.tracking.categories import category_tags
from vqlab.tracking.environment import code_tags, surroundings
from vqlab.tracking.liveness import delete_locks, owner_is_gone, owner_tags
from vqlab.tracking.pages import ExperimentPages, run_route
from vqlab.tracking.record import RunRecord
from vqlab.tracking.registry import Category, Champion, Registry
from vqlab.tracking.run import Run, Status, artifact, forget_failure, stored_tags
from vqlab.tracking.store import Client, connect, locate, without_password
from vqlab.tracking.views import tagged

_PAGE = 1000
_NAME_LENGTH = 200
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes the UI show the pages of model training rather than those of language models."""


class Tracker:
    """All runs of one store: `mlruns/` here, or what MLFLOW_TRACKING_URI names."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._experiments: dict[str, str] = {}
        self._artifact_uris: dict[str, str] = {}
        """Of runs that were started here."""
        self.registry = Registry(client)
        """Versions and champions."""

    @classmethod
    def open(
        cls, root: Path = Path("mlruns"), *, create: bool = True, write: bool = True
    ) -> Tracker:
        """Open the store, and mark runs whose process was killed (see `reconcile`).

        create: create a store that does not exist, which takes some seconds; False, for whatever
        reads runs, makes that a UserError. write: False, for what does not write either, also
        reads a store that cannot be written.

        Raises UserError where it cannot be written or reached, or its address is of no known kind.
        """
        tracker = cls(connect(locate(root), create, write))
        tracker.reconcile()
        return tracker

    @property
    def root(self) -> Path:
        """The folder on this machine that holds everything of this store (absolute)."""
        return self._client.store.root

    # runs that are written

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
        """Start a run in `experiment` (a category, or `all`), nested under the run id `parent`.

        It carries, besides `tags` and `params` (flat), its owner process, the code's commit and the
        surroundings (also as artifact environment.json).
        """
        around = surroundings()
        known = {f"vqlab.{key}": str(around[key]) for key in ("python", "torch", "cpu", "threads")}
        every = {
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": "vqlab",
            "vqlab.version": str(around["vqlab"]),
            "vqlab.device": device,
            **known,
            **code_tags(),
            **owner_tags(self.root),
            **({"mlflow.parentRunId": parent} if parent else {}),
            **stored_tags(tags or {}),
        }
        stored = self._create_run(experiment, every, shorten(visible(name), _NAME_LENGTH))
        run = Run(self._client, stored.info.run_id, system_metrics=system_metrics, info=stored.info)
        self._artifact_uris[run.id] = stored.info.artifact_uri
        run.log_params(params or {})
        run.log_json({**around, "device": device}, "environment.json")
        return run

    def resume(
        self, reference: str, *, system_metrics: bool = False, take_over: bool = False
    ) -> Run:
        """Take up a run that ended early (see `find`): it is RUNNING again and owned by this
        process; steps that it logged are not logged twice.

        take_over: also where nothing can be known of its process. Raises UserError where the
        process may still live, or has ended as it should.
        """
        with FileLock(self.root / "resume.lock"):  # of two at once the second one is refused
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
        """Mark runs whose process was killed, and so could not say so, as FAILED/`interrupted`;
        returns them as they were. Runs whose process may live are left alone: those of other
        machines and containers, unless it left its lock (see `vqlab.tracking.liveness`)."""
        running = self._search("attributes.status = 'RUNNING'")
        gone = [r for r in running if owner_is_gone(r.tags, self.root)]
        # Read again, for a process may have finished its run and ended in between.
        gone = [r for r in gone if self._client.get_run(r.run_id).info.status == "RUNNING"]
        for record in gone:
            self._client.set_tag(record.run_id, "vqlab.failure", "interrupted")
            self._client.set_terminated(record.run_id, status="FAILED")
        marked = {record.run_id for record in gone}
        delete_locks(self.root, (r.tags for r in running if r.run_id not in marked))
        return gone

    def run_folder(self, run_id: str) -> Path:
        """A run's folder on this machine, for what is no artifact (it may not exist)."""
        return self._client.store.run_folder(run_id)

    def _create_run(self, experiment: str, tags: Mapping[str, str], name: str) -> Stored:
        """The experiment is looked up once, and again where it is gone meanwhile."""
        known = self._experiments.get(experiment)
        if known is not None:
            with contextlib.suppress(MlflowException):
                return self._client.create_run(known, tags=tags, run_name=name)
        self._experiments[experiment] = str(self._experiment(experiment).experiment_id)
        return self._client.create_run(self._experiments[experiment], tags=tags, run_name=name)

    def _experiment(self, name: str) -> Experiment:
        """The experiment `name`, made (or brought back, where it was deleted) if need be."""
        artifacts = self._client.store.artifacts
        folder = unique_key(name, r"[^a-zA-Z0-9_\-]")
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.name != name:  # a registry that takes `Nut` for `nut`
            return self._experiment(unique_key(name, with_digest=True))
        if found is None:
            try:
                self._client.create_experiment(
                    name,
                    artifact_location=(artifacts / folder).as_uri() if artifacts else None,
                    tags=_EXPERIMENT_TAGS,
                )
            except MlflowException as error:  # another process was faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self._client.get_experiment_by_name(name)
        elif found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found

    # runs that are read

    def find(self, reference: str) -> RunRecord:
        """The run with this id, unique beginning of an id (4 or more), or unique name (see also
        `_other_names`).

        Raises UserError that lists the ones meant, near ones, or the latest.
        """
        reference = visible(reference)  # as names are stored
        if re.fullmatch("[0-9a-f]{32}", reference):  # spares reading all runs
            for record in self._search(f"attributes.run_id = '{reference}'"):
                return record
        records = self._search("")
        for fits in (
            [r for r in records if r.name == reference],
            [r for r in records if reference in _other_names(r.tags)],
            [r for r in records if len(reference) >= 4 and r.run_id.startswith(reference)],
        ):
            if len(fits) == 1:
                return fits[0]
            if fits:
                meant = ", ".join(f"{r.run_id[:12]} ({r.status}, {r.start:%F %T})" for r in fits)
                raise UserError(
                    f"{len(fits)} runs are meant by {reference!r}: {meant}; give an id."
                )
        self._refuse_deleted(reference)
        if not records:
            raise UserError(f"there is no run {reference!r}, and none at all in {self.root}.")
        every = {r.run_id: {r.name} | _other_names(r.tags) for r in records}
        names = difflib.get_close_matches(reference, set().union(*every.values()), n=5)
        near = [r for r in records if every[r.run_id] & set(names)][:5]
        said = "near ones" if near else "the latest"
        listed = ", ".join(r.short for r in near or records[:5])
        raise UserError(f"there is no run {reference!r}; {said}: {listed}.")

    def stored(self, run_id: str) -> RunRecord | None:
        """The run with this id, also where it was deleted in the UI; None where it is gone for good
        (`mlflow gc`)."""
        try:
            run = self._client.get_run(run_id)
            experiment = self._client.get_experiment(run.info.experiment_id).name
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return self._record(run, experiment)

    def _refuse_deleted(self, reference: str) -> None:
        """Raise UserError where a deleted run has this name or id, saying what brings it back."""
        every = self._client.search_experiments(ViewType.ALL, max_results=_PAGE)
        known = {experiment.experiment_id: experiment for experiment in every}
        if not known:
            return
        for run in self._client.search_runs(list(known), "", ViewType.DELETED_ONLY, _PAGE):
            record = self._record(run, "")
            names = {record.name, *_other_names(record.tags)}
            begins = len(reference) >= 4 and record.run_id.startswith(reference)
            if reference not in names and not begins:
                continue
            experiment = known[run.info.experiment_id]
            how = f"mlflow runs restore --run-id {record.run_id}"
            what = f"run {record.name} ({record.run_id[:8]}) was deleted"
            if experiment.lifecycle_stage == "deleted":
                how = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
                what += f" with its experiment {experiment.name}"
            uri = "" if self._client.store.artifacts is None else (
                f"MLFLOW_TRACKING_URI={without_password(self._client.store.uri)} "
            )  # fmt: skip
            raise UserError(f"{what}; bring it back in the MLflow UI, or by: {uri}{how}")

    def history(self, run_id: str, prefixes: tuple[str, ...]) -> list[dict[str, float]]:
        """The metrics of a run whose keys begin so, a dict for each step at which there are any."""
        steps: dict[int, dict[str, float]] = {}
        for key in self._client.get_run(run_id).data.metrics:
            if key.startswith(prefixes):
                for metric in self._client.get_metric_history(run_id, key):
                    steps.setdefault(metric.step, {})[key] = metric.value
        return [steps[step] for step in sorted(steps)]

    def runs(
        self,
        experiments: Iterable[str] | None = None,
        *,
        kinds: Iterable[str] | None = None,
        tags: Mapping[str, str] | None = None,
        order_by: str | None = None,
        ascending: bool = False,
    ) -> list[RunRecord]:
        """Stored runs of `experiments` (None: all) whose tag `vqlab.kind` is among `kinds` and
        whose `tags` are so, newest first; or ordered by the metric `order_by`, best (largest,
        unless `ascending`) first and those without it last."""
        wanted = stored_tags(tags or {})
        records = self._search(tagged(wanted), experiments)
        # A database may compare without case, and the query leaves out what it cannot quote.
        records = [r for r in records if wanted.items() <= r.tags.items()]
        if kinds is not None:
            allowed = set(kinds)
            records = [r for r in records if r.tags.get("vqlab.kind") in allowed]
        if order_by is not None:
            sign = 1.0 if ascending else -1.0
            records.sort(key=lambda r: _rank(r.metrics.get(order_by), sign))
        return records

    def _search(self, query: str, experiments: Iterable[str] | None = None) -> list[RunRecord]:
        wanted = None if experiments is None else set(experiments)
        known = {
            e.experiment_id: e.name
            for e in self._client.search_experiments(max_results=_PAGE)
            if wanted is None or e.name in wanted
        }
        records: list[RunRecord] = []
        token = None
        while known:
            page = self._client.search_runs(list(known), query, max_results=_PAGE, page_token=token)
            records += [self._record(run, known[run.info.experiment_id]) for run in page]
            token = page.token
            if not token:
                break
        return records

    def _record(self, run: Stored, experiment: str) -> RunRecord:
        info = run.info
        ended = info.end_time if info.status != "RUNNING" else None
        return RunRecord(
            run_id=info.run_id,
            name=info.run_name,
            experiment=experiment,
            status=info.status,
            tags=dict(run.data.tags),
            params=dict(run.data.params),
            metrics=dict(run.data.metrics),
            start=datetime.fromtimestamp(info.start_time / 1000, tz=timezone.utc),
            duration=None if ended is None else (ended - info.start_time) / 1000,
            _artifact=partial(artifact, self._client, info.run_id, info.artifact_uri),
        )

    def champion(self, category: Category) -> Champion:
        """The champion of a category, its checkpoint on this machine. Raises UserError where there
        is none, or its file is gone or another.

        `a+b` means the joint model of a and b only if no run is of a category of that name.
        """
        if isinstance(category, str) and "+" in category:
            own = self.runs(tags=category_tags([category]))
            return self.registry.champion([category] if own else category)
        return self.registry.champion(category)

    # runs that have ended

    def amend(self, run_id: str, *, repeated: bool = False) -> Run:
        """A run that ended, to add metrics, tags and artifacts to; how it ended stays. `repeated`:
        what is done in it was done before, and steps that it logged are not logged twice."""
        return Run(self._client, run_id, resumed=repeated)

    def reopen(self, run_id: str) -> None:
        """Make a run RUNNING again, owned by this process, however it ended."""
        owner = [RunTag(name, tag) for name, tag in owner_tags(self.root).items()]
        self._client.log_batch(run_id, tags=owner)
        self._client.update_run(run_id, status="RUNNING")
        forget_failure(self._client, run_id)

    def settle(
        self, run_id: str, status: Status, tags: Mapping[str, str], known: str | None = None
    ) -> None:
        """Correct how a run ended, whatever it said itself. known: that, where it is known."""
        stored = [RunTag(name, tag) for name, tag in stored_tags(tags).items()]
        if stored:
            self._client.log_batch(run_id, tags=stored)
        if status == "FINISHED":
            forget_failure(self._client, run_id)
        if (known or self._client.get_run(run_id).info.status) != status:
            self._client.set_terminated(run_id, status=status)

    def drop(self, run_id: str, path: str) -> None:
        """Delete an artifact (a file or a folder) of a run; nothing happens where it is gone."""
        uri = self._artifact_uris.get(run_id) or self._client.get_run(run_id).info.artifact_uri
        with contextlib.suppress(MlflowException, OSError):
            get_artifact_repository(uri, self._client.store.uri).delete_artifacts(path)

    # where to look

    def link(self, run_id: str) -> str:
        """The page of a run in the UI."""
        experiment = self._client.get_run(run_id).info.experiment_id
        return f"{self._client.store.web}/{run_route(experiment, run_id)}"

    def pages(self, experiment: str) -> ExperimentPages:
        """The UI's pages of an experiment, which is made if need be."""
        return ExperimentPages(self._client, str(self._experiment(experiment).experiment_id))


def _other_names(tags: Mapping[str, str]) -> set[str]:
    """What else a run is found by: a study's by the study's name, a trial's by that and its number
    (`cable-vqvae-1a2b3c4d-003`), a training's by detector and category (`vqvae-cable`)."""
    study, detector = tags.get("vqlab.study", ""), tags.get("vqlab.detector", "")
    names = {
        "study": study,
        "trial": f"{study}-{int(tags.get('vqlab.trial', '0')):03d}",
        "train": f"{detector}-{tags.get('vqlab.category', '')}",
    }
    name = names.get(tags.get("vqlab.kind", ""), "")
    return {name} if name else set()


def _rank(value: float | None, sign: float) -> tuple[bool, float]:
    missing = value is None or value != value
    return missing, 0.0 if value is None or missing else sign * value
