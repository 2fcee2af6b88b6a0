"""A failed write to the tracking store never loses a finished training.

A successful `vqlab train` records its calls of MLflow's client and artifact store; then each call
is made to fail in a separate training. All trainings run in this process with real stores.
"""

from __future__ import annotations

import errno
import functools
import inspect
import itertools
import shutil
import sqlite3
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from tiny_set import write_tiny_set

from vqlab.cli import main
from vqlab.model import Model
from vqlab.tracking import Tracker

pytestmark = [
    pytest.mark.usefixtures("blank_figures", "every_state"),
    pytest.mark.filterwarnings("default"),  # printed by a command
]
EPOCHS = 2
RECIPE = (
    "vqvae", "--preset", "tiny", f"training.epochs={EPOCHS}", "data.image_size=32",
    "detector.hidden=4", "detector.dim=8", "detector.codebook_size=16",
    "detector.scoring.context_steps=3", "training.device=cpu", "evaluation.resamples=50",
)  # fmt: skip
ERRORS: dict[str, Callable[[], Exception]] = {
    "rejected": lambda: MlflowException("refused by the test"),
    "disk full": lambda: OSError(errno.ENOSPC, "No space left on device", "mlruns"),
    "cloud": lambda: RuntimeError("the error of a cloud's library"),
}
METHODS = [
    *((MlflowClient, name) for name, _ in inspect.getmembers(MlflowClient, inspect.isfunction)),
    (LocalArtifactRepository, "log_artifact"),
    (LocalArtifactRepository, "log_artifacts"),
]


class Training:
    """`vqlab train` in a separate store, and its calls of the store once its run is created."""

    def __init__(self, folder: Path, data: Path, epochs: list[int]) -> None:
        self.root, self.results, self.data = folder / "mlruns", folder / "results", data
        self.epochs = epochs
        """The epochs trained."""
        self.calls: list[str] = []
        self.before: Callable[[Training], None] = lambda training: None
        """Called before each call of the store; may raise."""
        self.run_id = ""
        self._within = True

    def call(self, name: str, method: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if self._within:  # a nested call, or one before the run is created
            result = method(*args, **named)
            if name == "create_run":
                self.run_id, self._within = result.info.run_id, False
            return result
        self.calls.append(name)
        self._within = True
        try:
            self.before(self)
            return method(*args, **named)
        finally:
            self._within = False

    def run(self, *arguments: str) -> int:
        """Return the exit status of a command that must not print a traceback."""
        words = ["vqlab", "train", *arguments, "--mlruns", str(self.root)]
        self.calls, self._within = [], True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*words, "--output", str(self.results)])
            patch.setattr(warnings, "showwarning", warnings.showwarning)
            for owner, name in METHODS:
                method = getattr(owner, name)
                if not name.startswith("_"):
                    patch.setattr(owner, name, self._recorded(name, method))
            with pytest.raises(SystemExit) as end:
                main()
        return int(str(end.value.code))

    def _recorded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **named: Any) -> Any:
            return self.call(name, method, *args, **named)

        return call

    def start(self) -> int:
        return self.run(*RECIPE, "-d", str(self.data), "-c", "part")

    def logged(self) -> set[str]:
        """Return the keys of all metrics and tags, the artifacts, and the status of the run."""
        (record,) = Tracker.open(self.root).runs()
        artifacts = record.artifact("")
        files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*.*")}
        pictures = {name for name in files if name.startswith("images/")}  # these have random names
        metrics = {name for name in record.metrics if not name.startswith("system/")}  # sampled
        return {*metrics, *record.tags, *(files - pictures), record.status}


Make = Callable[[], Training]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_set(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(
    tmp_path: Path,
    data: Path,
    empty_store: Path,
    epochs: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    """Create trainings, each in a separate store."""
    monkeypatch.setattr("vqlab.tracking.run._WRITE_INTERVAL", 0.0)
    folders = (tmp_path / str(number) for number in range(1000))

    def training() -> Training:
        folder = next(folders)
        shutil.copytree(empty_store, folder / "mlruns")
        epochs.clear()
        return Training(folder, data, epochs)

    return training


def before_first_call_after_training(
    action: Callable[[Training], None],
) -> Callable[[Training], None]:
    """Run an action before the first call after the last epoch."""
    done: list[bool] = []

    def before(training: Training) -> None:
        if len(training.epochs) == EPOCHS and not done:
            done.append(True)
            action(training)

    return before


def problem_of(training: Training, good: set[str], output: str, status: int) -> str:
    """Return what is wrong with a training whose logging failed, or an empty string."""
    if status not in (0, 2) or "Traceback" in output:
        return "traceback"
    if not training.epochs:  # it failed before there was anything to lose
        return "" if status == 2 and "vqlab: " in output else "not trained"
    checkpoints = [*training.root.parent.rglob("model.safetensors")]
    if len(training.epochs) != EPOCHS or not checkpoints:
        return f"lost after {len(training.epochs)} epochs"
    Model.load(checkpoints[0])
    if status == 0:
        missing = good - training.logged()
        return (
            f"silently not logged: {missing}" if missing and "could not log" not in output else ""
        )
    return "" if any(str(path) in output for path in checkpoints) else "checkpoint not named"


def incomplete(training: Training, good: set[str]) -> str:
    """Resume a training that was not logged; return what is wrong, or an empty string."""
    training.before = lambda training: None
    training.epochs.clear()
    (record,) = Tracker.open(training.root).runs()
    status = training.run("--resume", record.run_id, "--take-over")  # this process is alive
    missing = good - training.logged()
    if not (status or training.epochs or missing):
        return ""
    return f"not completed: status {status}, epochs {training.epochs}, missing {missing}"


def good_training(make: Make) -> tuple[list[str], set[str]]:
    """Return the calls of a training whose logging succeeds, and what it logs."""
    training = make()
    assert training.start() == 0
    return training.calls, training.logged()


@pytest.fixture
def problems(
    make: Make, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[[Callable[[list[str]], list[tuple[int, str]]]], list[str]]:
    """Let the calls selected by a function, by number and kind of error, fail in separate
    trainings; return the problems."""

    def of(choose: Callable[[list[str]], list[tuple[int, str]]]) -> list[str]:
        calls, good = good_training(make)
        messages = []
        for number, kind in choose(calls):
            training = make()

            def problems_of_failed_call(
                training: Training, number: int = number, kind: str = kind
            ) -> None:
                if len(training.calls) == number + 1:
                    raise ERRORS[kind]()

            training.before = problems_of_failed_call
            caplog.clear()
            capsys.readouterr()
            status = training.start()
            output = caplog.text + capsys.readouterr().err
            wrong = problem_of(training, good, output, status)
            if status and training.epochs:
                wrong = wrong or incomplete(training, good)
            if wrong:
                messages.append(
                    f"{number} {calls[number]} {kind}: {wrong}; status {status}: {output}"
                )
        return messages

    return of


Problems = Callable[[Callable[[list[str]], list[tuple[int, str]]]], list[str]]


@pytest.mark.slow  # one training per method of the store
def test_last_call_of_every_method_may_fail(problems: Problems) -> None:
    """The kinds of errors alternate between methods."""

    def choose(calls: list[str]) -> list[tuple[int, str]]:
        last = {name: number for number, name in enumerate(calls)}
        return list(zip(last.values(), itertools.cycle(ERRORS), strict=False))

    assert problems(choose) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
def test_every_call_may_fail(problems: Problems, kind: str) -> None:
    assert problems(lambda calls: [(number, kind) for number in range(len(calls))]) == []


def reject(statement: str, training: Training) -> None:
    """Let the database reject a kind of statement, such as INSERT ON metrics."""
    with closing(sqlite3.connect(training.root / "mlflow.db")) as database:
        refusal = "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        database.execute(f"CREATE TRIGGER refusal BEFORE {statement} {refusal}")


def delete_run(training: Training) -> None:
    MlflowClient(f"sqlite:///{training.root}/mlflow.db").delete_run(training.run_id)


def delete_experiment(training: Training) -> None:
    client = MlflowClient(f"sqlite:///{training.root}/mlflow.db")
    client.delete_experiment(client.get_run(training.run_id).info.experiment_id)


def delete_permanently(training: Training) -> None:
    """Delete permanently, as `mlflow gc` does."""
    with closing(sqlite3.connect(training.root / "mlflow.db")) as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (training.run_id,))
        database.commit()
    shutil.rmtree(training.root / "artifacts" / "part" / training.run_id)


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


REAL: dict[str, Callable[[Training], None]] = {
    "the status is refused": functools.partial(reject, "UPDATE ON runs"),
    "the run is deleted": delete_run,
    "the run is deleted for good": delete_permanently,
    "the experiment is deleted": delete_experiment,
    "no artifact can be written": lambda training: replace_by_file(
        training.root / "artifacts" / "part" / training.run_id / "artifacts"
    ),
    "the run's folder is no folder": lambda training: replace_by_file(
        training.root / "runs" / training.run_id
    ),
}


SLOW = [  # MLflow and vqlab retry for seconds
    pytest.param(functools.partial(reject, f"INSERT ON {table}"), id=f"{table} are rejected",
                 marks=pytest.mark.slow)
    for table in ("metrics", "tags")
]  # fmt: skip


@pytest.mark.parametrize("action", [*(pytest.param(v, id=k) for k, v in REAL.items()), *SLOW])
def test_store_failure_after_training(
    make: Make,
    action: Callable[[Training], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    training = make()
    training.before = before_first_call_after_training(action)
    status = training.start()
    output = caplog.text + capsys.readouterr().err
    assert problem_of(training, set(), output, status) == "", output
    assert status == 2 or "could not log" in output or "checkpoint is in" in output, output
