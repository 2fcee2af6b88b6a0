"""A run being written: metrics, tags, artifacts and final status."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from mlflow.entities import Metric, Param, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from vqlab.errors import UserError
from vqlab.text import storable
from vqlab.tracking.artifacts import artifact
from vqlab.tracking.errors import first_line, user_errors
from vqlab.tracking.pages import run_route
from vqlab.tracking.store import Client
from vqlab.tracking.stored_form import (
    stored_dataset,
    stored_key,
    stored_param,
    stored_tags,
    yaml_text,
)
from vqlab.tracking.system_metrics import start_monitor, stop_monitor
from vqlab.tracking.termination import raise_on_signals, restore_handlers
from vqlab.tracking.views import logged_picture, picture_key

log = logging.getLogger(__name__)
Status = Literal["FINISHED", "FAILED", "KILLED"]

FAILURE = "vqlab.failure"
"""Tag: why the run did not finish; FINISHED runs have none."""
NOT_LOGGED = "vqlab.not_logged"
"""Tag: items that could not be logged, one line each."""

_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000
_MAX_KEYS = 4
"""Maximum number of keys named in a line of `not_logged`."""
_WRITE_INTERVAL = 1.0
"""Minimum time between writes of an open run; values in between are buffered."""
_RETRY_FACTOR = 10
"""Additional time until the next write after a failed one, as a multiple of the time it took."""


class Run:
    """A run being written; a context manager that ends the run.

    The status becomes FINISHED; FAILED on an exception, with the message in the tag
    `vqlab.failure`; KILLED on Ctrl-C, SIGTERM or SIGHUP. Exceptions propagate. A call of `finish`
    inside the block takes precedence, and nested blocks of the same run end nothing. Inside the
    block, values are buffered for up to a second; a killed process loses the buffer.

    Items that the store rejects are skipped with a warning and listed in `not_logged`, unless they
    are required: the settings, the checkpoint and the final status. Metrics and tags that cannot be
    written for a reason that users can fix (disk full, server down) stay in the buffer, and are
    written later. Everything else that fails for such a reason raises UserError.
    """

    def __init__(
        self,
        client: Client,
        run_id: str,
        *,
        resumed: bool = False,
        system_metrics: bool = False,
        info: RunInfo | None = None,
    ) -> None:
        info = info or client.get_run(run_id).info
        self.id: str = run_id
        self.name: str = info.run_name
        self.experiment_id: str = info.experiment_id
        self.resumed = resumed
        self.status: Status | None = None
        """Final status set by this object, or None."""
        self.tags: dict[str, str] = {}
        """Tags set by this object, in stored form."""
        self.not_logged: list[str] = []
        """Items that could not be logged, one line each."""
        self._client = client
        self._depth = 0
        self._metrics: list[Metric] = []
        self._pending_tags: set[str] = set()
        self._next_write = time.monotonic() + _WRITE_INTERVAL
        self._artifact_uri: str = info.artifact_uri
        self._steps: dict[str, set[int]] = {}
        self._handlers: dict[int, Any] = {}
        self._monitor = start_monitor(client, run_id, resumed) if system_metrics else None

    # locations

    @property
    def link(self) -> str:
        """Address of the run in the UI."""
        return f"{self._client.store.web}/{run_route(self.experiment_id, self.id)}"

    @property
    def folder(self) -> Path:
        """Local folder for temporary files, e.g. the training state; created and removed by the
        caller."""
        return self._client.store.run_folder(self.id)

    def artifact(self, path: str) -> Path:
        """Return the local path of an artifact (file or folder; "": the folder of all); download it
        if necessary.

        Raises UserError if the run has no such artifact.
        """
        return artifact(self._client, self.id, self._artifact_uri, path)

    # logging

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log the values of one step (an epoch).

        A resumed run skips steps that were logged before.
        """
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            metric = stored_key(name)
            if self.resumed and step in self.logged_steps(metric):
                continue
            self._metrics.append(Metric(metric, float(value), now, step))
            if metric in self._steps:
                self._steps[metric].add(step)
        self._write_when_due()

    def logged_steps(self, key: str) -> set[int]:
        """Return the steps at which the metric `key` was logged."""
        if key not in self._steps:
            try:
                history = self._client.get_metric_history(self.id, stored_key(key))
            except (UserError, MlflowException):  # a step logged twice is better than a lost one
                return set()
            self._steps[key] = {metric.step for metric in history}
        return self._steps[key]

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log flat settings, formatted as in a recipe; long values are truncated."""
        entities = [Param(stored_key(name), stored_param(value)) for name, value in params.items()]
        for first in range(0, len(entities), _PARAMS_AT_ONCE):
            with self.handle_errors("settings"):
                self._client.log_batch(self.id, params=entities[first : first + _PARAMS_AT_ONCE])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._buffer_tags(tags)
        self._write_when_due()

    def _buffer_tags(self, tags: Mapping[str, str]) -> None:
        stored = stored_tags(tags)
        self.tags |= stored
        self._pending_tags |= set(stored)

    def _write_when_due(self) -> None:
        """Write the buffer if it is due; inside the block, failed writes are postponed."""
        if not self._depth:
            self._write()
            return
        began = time.monotonic()
        if began < self._next_write:
            return
        pause = _WRITE_INTERVAL
        try:
            self._write()
        except UserError as error:
            log.warning("run %s: metrics and tags are logged later: %s", self.id[:8], error)
            pause += _RETRY_FACTOR * (time.monotonic() - began)
        self._next_write = time.monotonic() + pause

    def _write(self) -> None:
        """Write the buffer. If a UserError is raised, unwritten values stay in it."""
        while self._metrics or self._pending_tags:
            batch = self._metrics[:_METRICS_AT_ONCE]
            tags = [RunTag(key, self.tags[key]) for key in sorted(self._pending_tags)]
            keys = sorted({metric.key for metric in batch} | self._pending_tags)
            names = ", ".join(keys[:_MAX_KEYS]) + (", …" if keys[_MAX_KEYS:] else "")
            with self.handle_errors(names):
                self._client.log_batch(self.id, metrics=batch, tags=tags)
            del self._metrics[: len(batch)]
            self._pending_tags.clear()

    @contextlib.contextmanager
    def handle_errors(self, item: str, *, required: bool = False) -> Iterator[None]:
        """Skip `item` if the store rejects it: warn, and record it in `not_logged`.

        required: raise UserError instead. Errors that users can fix (disk full, server lost) are
        raised as UserError in both cases.
        """
        try:
            with user_errors(self._client.store.root):
                yield
        except UserError:
            raise
        except Exception as error:  # artifact stores raise the errors of their own libraries
            line = f"{item}: {first_line(error)}"
            if required:
                raise UserError(f"run {self.id[:8]}: could not log {line}") from error
            log.warning("run %s: could not log %s", self.id[:8], line)
            self.not_logged.append(line)

    def log_text(self, text: str, path: str, *, required: bool = False) -> None:
        """Write `text` as the artifact `path`."""
        name = Path(path)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name.name
            file.write_text(storable(text), encoding="utf-8")
            folder_name = str(name.parent) if name.parent.name else None
            self.log_artifact(file, folder_name, required=required)

    def log_json(self, tree: Mapping[str, Any], path: str) -> None:
        """Write plain values as the JSON artifact `path`."""
        self.log_text(json.dumps(tree, indent=2), path)

    def log_yaml(self, tree: Mapping[str, Any], path: str) -> None:
        """Write settings as the YAML artifact `path`, which is required."""
        self.log_text(yaml_text(tree), path, required=True)

    def log_figure(self, figure: Any, path: str) -> None:
        """Save a matplotlib figure as the artifact `path`; the suffix selects the format."""
        with self.handle_errors(path):
            self._client.log_figure(self.id, figure, path)

    def log_artifact(
        self, file: Path, folder: str | None = None, *, required: bool = False
    ) -> None:
        """Copy a file into the artifact folder `folder`."""
        path = f"{folder}/{file.name}" if folder else file.name
        with self.handle_errors(path, required=required):
            self._artifacts.log_artifact(str(file), folder)

    def log_artifacts(self, folder: Path, path: str | None = None) -> None:
        """Copy the contents of `folder` into the artifacts, under `path`."""
        with self.handle_errors(path or "artifacts"):
            self._artifacts.log_artifacts(str(folder), path)

    @property
    def _artifacts(self) -> Any:
        # The client's methods query the artifact URI on every call.
        return get_artifact_repository(self._artifact_uri, self._client.store.uri)

    def log_pictures(self, pictures: Mapping[str, np.ndarray[Any, Any]], step: int = 0) -> None:
        """Log images (H, W, 3) uint8; the UI compares runs by key, with a slider over steps.

        A slash in a key starts a section.
        """
        logged: set[tuple[str, int] | None] = set()
        if self.resumed:
            with self.handle_errors("pictures"):
                files = self._client.list_artifacts(self.id, "images")
                logged = {logged_picture(file.path) for file in files}
        for name, picture in pictures.items():
            key = picture_key(name)
            if (key, step) not in logged:
                with self.handle_errors(f"picture {key}"):
                    self._client.log_image(self.id, picture, key=key, step=step)

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a dataset by its fingerprint (truncated to 32 characters).

        context: train, validation or test.
        """
        stored = stored_dataset(name, digest, source, context)
        with self.handle_errors(f"data set {name}"):
            self._client.log_inputs(self.id, [stored])

    # ending

    def finish(self, status: Status = "FINISHED", failure: str | None = None) -> None:
        """End the run. failure: why it did not finish.

        Raises UserError if the status cannot be written.
        """
        self.status = status
        if self._monitor is not None:
            stop_monitor(self._monitor)
            self._monitor = None
        if failure:
            self._buffer_tags({FAILURE: failure})
        self._write()
        if self.not_logged:
            self._buffer_tags({NOT_LOGGED: "\n".join(self.not_logged)})
            self._write()
        with self.handle_errors(f"status {status}", required=True):
            if status == "FINISHED":  # another process may have marked this run as interrupted
                clear_failure(self._client, self.id)
            self._client.set_terminated(self.id, status=status)

    def __enter__(self) -> Run:
        self._depth += 1
        if self._depth == 1:
            self._handlers = raise_on_signals()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        restore_handlers(self._handlers)
        if self.status is not None:
            return
        if error is None:
            self.finish()
            return
        # The original error takes precedence over errors while logging it.
        with contextlib.suppress(Exception):
            if isinstance(error, Exception) and not isinstance(error, UserError):
                self.log_text("".join(traceback.format_exception(error)), "failure.txt")
        with contextlib.suppress(Exception):
            status: Status = "FAILED" if isinstance(error, Exception) else "KILLED"
            self.finish(status, _sentence(error))


def _sentence(error: BaseException) -> str:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted by Ctrl-C"
    return f"{type(error).__name__}: {error}"


def clear_failure(client: Client, run_id: str) -> None:
    """Delete the failure tag of a run."""
    if FAILURE in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, FAILURE)
