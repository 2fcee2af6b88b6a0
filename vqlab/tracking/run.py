"""One run: what a training logs, where it ends, and how it ends."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import yaml
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from sqlalchemy.exc import SQLAlchemyError

from vqlab.errors import UserError
from vqlab.text import storable, unique_key
from vqlab.tracking.pages import run_route
from vqlab.tracking.store import Client, told
from vqlab.tracking.views import picture_key

log = logging.getLogger(__name__)
Status = Literal["FINISHED", "FAILED", "KILLED"]

CONFIG = "config.yaml"
"""Artifact that holds a run's resolved settings."""

CHECKPOINT = "checkpoint/model.safetensors"
"""Artifact that holds a run's checkpoint."""

FAILURE = "vqlab.failure"
"""Tag of a run: why it did not finish. A FINISHED run has none."""
NOT_LOGGED = "vqlab.not_logged"
"""Tag of a run: what could not be logged, a line each; the run went on."""

_PARAMS_AT_ONCE, _METRICS_AT_ONCE = 100, 1000
_PARAM_LENGTH, _TAG_LENGTH, _KEY_LENGTH = 6000, 8000, 250
_DIGEST_LENGTH, _DATASET_LENGTH = 32, 500
_NOT_IN_DATASETS = r"[\x00-\x1f\ud800-\udfff]"
_LISTED = 4
"""Keys that a note on what could not be logged names."""
_SAMPLING_SECONDS = 10.0
_GATHERED_SECONDS = 1.0
"""While a run is open, what it logs within this time of the last writing waits for the next."""
_SIGNALS = ("SIGTERM", "SIGHUP")
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""Ten times as fast where PyYAML was built with libyaml."""


class MissingArtifact(UserError):
    """A run has no artifact of that name."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM, SIGHUP) inside a run; treated as Ctrl-C is."""


class Run:
    """A run that is being written. As a context manager it ends the run in every case:

    normally FINISHED; on an exception FAILED, the sentence in the tag `vqlab.failure`; on Ctrl-C,
    SIGTERM or SIGHUP KILLED. Exceptions pass on. A `finish` inside the block has the last word.
    A block within a block of the same run ends nothing. Inside, what is logged within a second of
    the last writing waits for the next one, or for the end: a killed process may lose it.
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
        """How it ended; None as long as it has not, by this object."""
        self.tags: dict[str, str] = {}
        """Those set by this object, as they are stored."""
        self.not_logged: list[str] = []
        """What could not be logged so far, a line each."""
        self._client = client
        self._depth = 0
        self._metrics: list[Metric] = []
        self._unwritten: set[str] = set()
        self._written = time.monotonic()
        self._artifact_uri: str = info.artifact_uri
        self._steps: dict[str, set[int]] = {}
        self._handlers: dict[int, Any] = {}
        self._monitor = _start_monitor(client, run_id, resumed) if system_metrics else None

    # where things are

    @property
    def link(self) -> str:
        """The run's page in the UI."""
        return f"{self._client.store.web}/{run_route(self.experiment_id, self.id)}"

    @property
    def folder(self) -> Path:
        """A folder on this machine for what the run needs while it lasts, e.g. the state to
        resume from. It is the caller's to make and to remove; artifacts lie elsewhere."""
        return self._client.store.run_folder(self.id)

    @property
    def artifact_dir(self) -> Path:
        """The folder of all artifacts on this machine (downloaded, where a server has them)."""
        return self.artifact("")

    def artifact(self, path: str) -> Path:
        """Where the artifact `path` (a file or a folder) lies on this machine, downloaded if a
        server has it. Raises UserError where the run has no such artifact."""
        return artifact(self._client, self.id, self._artifact_uri, path)

    def config(self) -> dict[str, Any]:
        """The settings of the run: its artifact config.yaml. Raises UserError without one."""
        tree: dict[str, Any] = yaml.safe_load(self.artifact(CONFIG).read_text(encoding="utf-8"))
        return tree

    # what is logged

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log values of one step (an epoch) in one go.

        In a resumed run, steps that a key already has are left as they are: nothing doubles.
        """
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            metric = _key(name)
            if self.resumed and step in self.logged_steps(metric):
                continue
            self._metrics.append(Metric(metric, float(value), now, step))
            if metric in self._steps:
                self._steps[metric].add(step)
        self._write_when_due()

    def logged_steps(self, key: str) -> set[int]:
        """The steps at which the metric `key` has values; empty where it was never logged."""
        if key not in self._steps:
            history = self._client.get_metric_history(self.id, _key(key))
            self._steps[key] = {metric.step for metric in history}
        return self._steps[key]

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings, flat. Values are written as in a recipe; those too long are cut."""
        entities = [Param(_key(name), _param(value)) for name, value in params.items()]
        for first in range(0, len(entities), _PARAMS_AT_ONCE):
            with self.going_on("settings"):
                self._client.log_batch(self.id, params=entities[first : first + _PARAMS_AT_ONCE])

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, in one go."""
        self._gather_tags(tags)
        self._write_when_due()

    def _gather_tags(self, tags: Mapping[str, str]) -> None:
        stored = stored_tags(tags)
        self.tags |= stored
        self._unwritten |= set(stored)

    def _write_when_due(self) -> None:
        if not self._depth or time.monotonic() - self._written >= _GATHERED_SECONDS:
            self._write()

    def _write(self) -> None:
        """Write what was gathered; what the store refuses is left out and noted."""
        metrics, tags = self._metrics, [RunTag(key, self.tags[key]) for key in self._unwritten]
        self._metrics, self._unwritten = [], set()
        for first in range(0, len(metrics) or bool(tags), _METRICS_AT_ONCE):
            batch = metrics[first : first + _METRICS_AT_ONCE]
            keys = sorted({metric.key for metric in batch} | {tag.key for tag in tags})
            with self.going_on(", ".join(keys[:_LISTED]) + (", …" if keys[_LISTED:] else "")):
                self._client.log_batch(self.id, metrics=batch, tags=[] if first else tags)
        self._written = time.monotonic()

    @contextlib.contextmanager
    def going_on(self, what: str) -> Iterator[None]:
        """Inside, an error of the store does not end the run: `what` is noted in `not_logged`, and
        in the tag `vqlab.not_logged` at the end. A UserError (a full disk, a lost server) passes.
        """
        try:
            yield
        except (MlflowException, SQLAlchemyError) as error:
            line = f"{what}: {str(error).strip().partition(chr(10))[0]}"
            log.warning("run %s goes on without what could not be logged: %s", self.id[:8], line)
            self.not_logged.append(line)

    def log_text(self, text: str, path: str) -> None:
        """Write `text` as the artifact `path`."""
        name = Path(path)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name.name).write_text(storable(text), encoding="utf-8")
            self.log_artifacts(Path(folder), str(name.parent) if name.parent.name else None)

    def log_json(self, tree: Mapping[str, Any], path: str) -> None:
        """Write plain values as the JSON artifact `path`."""
        self.log_text(json.dumps(tree, indent=2), path)

    def log_yaml(self, tree: Mapping[str, Any], path: str) -> None:
        """Write plain values as the YAML artifact `path`."""
        self.log_text(yaml_text(tree), path)

    def log_figure(self, figure: Any, path: str) -> None:
        """Draw a matplotlib figure into the artifact `path`, its kind by the suffix."""
        with self.going_on(path):
            self._client.log_figure(self.id, figure, path)

    def log_artifact(self, file: Path, folder: str | None = None) -> None:
        """Copy a file into the artifacts, into `folder` there."""
        with told(self._client.store.root):
            self._artifacts.log_artifact(str(file), folder)

    def log_artifacts(self, folder: Path, path: str | None = None) -> None:
        """Copy what lies in `folder` into the artifacts, under `path` there."""
        with told(self._client.store.root):
            self._artifacts.log_artifacts(str(folder), path)

    @property
    def _artifacts(self) -> Any:
        # The client's own methods ask the store each time where a run's artifacts lie.
        return get_artifact_repository(self._artifact_uri, self._client.store.uri)

    def log_pictures(self, pictures: Mapping[str, np.ndarray[Any, Any]], step: int = 0) -> None:
        """Log pictures (H, W, 3) uint8 under keys that are the same in every run, so that the UI
        shows them side by side with a slider over the steps; a slash makes a section."""
        there = self._logged_pictures() if self.resumed else set()
        for name, picture in pictures.items():
            own = picture_key(name)
            if (own, step) not in there:
                with self.going_on(f"picture {own}"):
                    self._client.log_image(self.id, picture, key=own, step=step)

    def _logged_pictures(self) -> set[tuple[str, int]]:
        # MLflow names them images/<key with ~ for />+step+<step>+timestamp+…
        names = [Path(f.path).name for f in self._client.list_artifacts(self.id, "images")]
        found = (re.match(r"(.+)\+step\+(\d+)\+", name) for name in names)
        return {(match[1].replace("~", "/"), int(match[2])) for match in found if match}

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Say which data (our fingerprint, cut to the 32 characters MLflow takes) it used, and
        as what (`context`: train, validation, test)."""
        dataset = Dataset(
            name=unique_key(name, _NOT_IN_DATASETS, _DATASET_LENGTH),
            digest=digest[:_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": source}),
        )
        tag = InputTag(key="mlflow.data.context", value=context)
        with self.going_on(f"data set {name}"):
            self._client.log_inputs(self.id, [DatasetInput(dataset=dataset, tags=[tag])])

    # how it ends

    def finish(self, status: Status = "FINISHED", failure: str | None = None) -> None:
        """End the run; `failure` is the sentence that says why it did not finish."""
        self.status = status
        if self._monitor is not None:
            _stop_monitor(self._monitor)
            self._monitor = None
        if failure:
            self._gather_tags({FAILURE: failure})
        if self.not_logged:
            self._gather_tags({NOT_LOGGED: "\n".join(self.not_logged)})
        self._write()
        if status == "FINISHED":  # another process may have taken this one for dead
            forget_failure(self._client, self.id)
        self._client.set_terminated(self.id, status=status)

    def __enter__(self) -> Run:
        self._depth += 1
        if self._depth > 1:
            return self
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                # Leave alone what somebody else handles, or ignores (nohup).
                if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, _terminate)
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
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if self.status is not None:
            return
        if error is None:
            self.finish()
            return
        # The error itself matters more than what goes wrong while it is written down.
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


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(f"ended by {signal.Signals(number).name}")


def _start_monitor(client: Client, run_id: str, resumed: bool) -> SystemMetricsMonitor:
    monitor = SystemMetricsMonitor(
        run_id,
        sampling_interval=_SAMPLING_SECONDS,
        resume_logging=resumed,
        tracking_uri=client.store.uri,
    )
    monitor.start()
    return monitor


def _stop_monitor(monitor: SystemMetricsMonitor) -> None:
    """Stop its thread, then take one last sample: a run shorter than the interval has one too."""
    with contextlib.suppress(Exception):
        monitor.finish()
        monitor.collect_metrics()
        monitor.publish_metrics(monitor.aggregate_metrics())
        monitor.mlflow_logger.flush()


def forget_failure(client: Client, run_id: str) -> None:
    """Delete the tag that says why a run failed."""
    if FAILURE in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, FAILURE)


def stored_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow takes them."""
    return {_key(name): _cut(storable(str(tag)), _TAG_LENGTH) for name, tag in tags.items()}


def _key(name: str) -> str:
    """`name` as a key that MLflow takes; different names have different keys."""
    return unique_key(name, r"[^/\w.\- :]", _KEY_LENGTH)


def yaml_text(tree: Mapping[str, Any]) -> str:
    """Return plain values as YAML. Undecodable bytes of paths are escaped, and read back."""
    try:
        return str(yaml.dump(dict(tree), Dumper=_DUMPER, sort_keys=False, allow_unicode=True))
    except UnicodeEncodeError:  # libyaml's
        return str(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True))


def _param(value: Any) -> str:
    """A setting as a recipe spells it: true, null, [1, 2], text without quotes."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return _cut(storable(text), _PARAM_LENGTH)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def artifact(client: Client, run_id: str, artifact_uri: str, path: str) -> Path:
    """Where the artifact `path` of a run lies on this machine, downloaded if need be.

    Raises MissingArtifact (a UserError) where the run has no such artifact.
    """
    parts = urlsplit(artifact_uri)
    if parts.scheme == "file":
        found = Path(url2pathname(parts.path)) / path
        if not path:
            found.mkdir(parents=True, exist_ok=True)
    else:
        found = client.store.root / "downloads" / run_id / path
        into = found.parent if path else found  # MLflow keeps the last part of the path only
        into.mkdir(parents=True, exist_ok=True)
        try:
            client.download_artifacts(run_id, path, str(into))
        except (MlflowException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise MissingArtifact(
                f"artifact {path!r} of run {run_id} could not be retrieved: {reason}"
            ) from error
    if not found.exists():
        raise MissingArtifact(f"run {run_id} has no artifact {path!r}; was it removed by hand?")
    return found
