"""Tracking on SQLite stores, with killed processes and an MLflow server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracked_runs import BLACK, MODE, history, start

from vqlab.errors import UserError
from vqlab.text import unique_key
from vqlab.tracking import CHECKPOINT, Terminated, Tracker, ranked, ui_command
from vqlab.tracking.store import locate
from vqlab.tracking.views import picture_key


def test_content_of_a_run(tracker: Tracker) -> None:
    params = {"training.learning_rate": 1e-4, "data.root": None, "a": [1, "x"], "odd#key": True}
    with tracker.start(
        experiment="cable",
        name="first",
        params={**params, "long": "ü" * 7000, **{f"many.{i}": i for i in range(150)}},
        tags={"vqlab.kind": "train", "note": "n" * 9000},
        system_metrics=True,
    ) as run:
        for epoch in range(3):
            run.log_metrics({"train/loss": 1 / (epoch + 1), "codebook/perplexity": 7.0}, epoch)
        run.log_metrics({f"test/{i}": float(i) for i in range(1200)}, 3)
        run.log_pictures({"test/bent_wire/000": BLACK, "test/ünfit:1": BLACK}, 2)
        for _ in range(2):  # a resumed run logs the same parameters
            run.log_dataset("cable", "ab" * 32, "/somewhere", "train")
        run.log_yaml({"data": {"categories": ["cable"]}}, "config.yaml")

    record = tracker.find("first")
    assert record.config() == {"data": {"categories": ["cable"]}}
    assert (record.status, record.experiment, record.run_id) == ("FINISHED", "cable", run.id)
    assert record.params["training.learning_rate"] == "0.0001"
    assert record.params["data.root"] == "null"
    assert record.params["a"] == '[1, "x"]'
    assert record.params[unique_key("odd#key")] == "true"
    assert len(record.params["long"]) == 6000 and record.params["many.149"] == "149"
    assert len(record.tags["note"]) == 8000
    assert record.metrics["train/loss"] == 1 / 3 and record.metrics["test/1199"] == 1199.0
    assert "system/cpu_utilization_percentage" in record.metrics
    assert record.tags["vqlab.pid"] == str(os.getpid())
    assert record.duration is not None and 0 < record.duration < 60
    assert history(tracker, run.id, "train/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]

    environment = json.loads(record.artifact("environment.json").read_text())
    assert environment["torch"] and environment["cpu"] and environment["device"] == "cpu"
    pictures = sorted(p.name for p in record.artifact("images").glob("*.png"))
    assert [re.sub(r"\+timestamp.*", "", name) for name in pictures] == [
        f"test~{picture_key('ünfit:1')}+step+2",
        "test~bent_wire~000+step+2",
    ]
    with contextlib.closing(sqlite3.connect(tracker.root / "mlflow.db")) as connection:
        assert connection.execute("SELECT name, digest FROM datasets").fetchall() == [
            ("cable", "ab" * 16)
        ]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute(
            "SELECT value FROM experiment_tags WHERE key = 'mlflow.experimentKind'"
        ).fetchall() == [("custom_model_development",)]
    assert run.artifact("").is_relative_to(tracker.root / "artifacts" / "cable")
    assert run.link == tracker.link(run.id) and run.link.endswith(f"/runs/{run.id}{MODE}")


def test_status_of_a_finished_run(tracker: Tracker) -> None:
    with pytest.raises(UserError), start(tracker, "user"):
        raise UserError("data.root must be a folder; got x.")
    with pytest.raises(ZeroDivisionError), start(tracker, "crash"):
        print(1 / 0)
    with pytest.raises(KeyboardInterrupt), start(tracker, "ctrl-c"):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="pruned"), start(tracker, "pruned") as run:
        run.finish("KILLED", "pruned at epoch 2")
        raise ValueError("pruned")
    ends = {r.name: (r.status, r.tags["vqlab.failure"]) for r in tracker.runs()}
    assert ends == {
        "user": ("FAILED", "data.root must be a folder; got x."),
        "crash": ("FAILED", "ZeroDivisionError: division by zero"),
        "ctrl-c": ("KILLED", "interrupted by Ctrl-C"),
        "pruned": ("KILLED", "pruned at epoch 2"),
    }
    assert "print(1 / 0)" in tracker.find("crash").artifact("failure.txt").read_text()
    with pytest.raises(UserError, match=r"has no artifact 'failure\.txt'"):
        tracker.find("user").artifact("failure.txt")


def test_values_logged_within_a_second_are_written_at_the_end(tracker: Tracker) -> None:
    with start(tracker, "outer") as run:
        run.log_metrics({"train/loss": 2.0}, 1)
        run.set_tags({"vqlab.note": "a"})
        with run:  # does not end the run
            run.log_metrics({"train/loss": 1.0}, 2)
        assert run.status is None
    assert history(tracker, run.id, "train/loss") == [(1, 2.0), (2, 1.0)]
    record = tracker.find(run.id)
    assert (record.status, record.tags["vqlab.note"]) == ("FINISHED", "a")


def test_signal_handlers_are_restored(tracker: Tracker) -> None:
    with start(tracker) as outer:
        inside = signal.getsignal(signal.SIGTERM)
        with start(tracker, "child"):
            assert signal.getsignal(signal.SIGTERM) is inside
        assert signal.getsignal(signal.SIGTERM) is inside is not signal.SIG_DFL
    assert outer.status and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


PROGRAM = """
import socket, sys, time
from pathlib import Path
def no_look_up(*arguments, **named):
    raise SystemExit(f"looked up {arguments}")
socket.getaddrinfo = no_look_up
from vqlab.tracking import Terminated, Tracker
tracker = Tracker.open(Path(sys.argv[1]))
try:
    with tracker.start(experiment="cable", name=sys.argv[2], system_metrics=True) as run:
        run.log_metrics({"train/loss": 0.5}, 0)
        print(run.id, flush=True)
        time.sleep(300)
except Terminated:
    sys.exit(143)
"""


def launch(root: Path, name: str, cwd: Path) -> subprocess.Popen[str]:
    """Start a process that opens the store and holds a run until it is stopped."""
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "GITHUB_ACTIONS")}
    clean = {k: v for k, v in clean.items() if not k.startswith(("MLFLOW_", "PYTEST_"))}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), name],
        cwd=cwd,
        env=clean,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow  # two interpreters that import MLflow and create tables take 12 s of CPU time
def test_two_processes_on_a_new_store_are_stopped(tmp_path: Path) -> None:
    """Both create one store, without output or files elsewhere. SIGTERM is recorded at once, kill
    -9 by the next process that lists the runs."""
    cwd, root = tmp_path / "cwd", tmp_path / "a b ü#" / "mlruns"
    cwd.mkdir()
    killed, terminated = launch(root, "killed", cwd), launch(root, "terminated", cwd)
    for process in (killed, terminated):
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"[0-9a-f]{32}\n", line), line or process.stderr.read()
    tracker = Tracker.open(root)
    assert {r.name: (r.status, r.experiment) for r in tracker.runs()} == {
        "killed": ("RUNNING", "cable"),
        "terminated": ("RUNNING", "cable"),
    }
    terminated.terminate()
    killed.kill()
    assert terminated.communicate() == ("", "") and terminated.returncode == 143
    assert killed.communicate() == ("", "")
    assert not list(cwd.iterdir())
    assert len(list((root / "artifacts" / "cable").iterdir())) == 2

    record = tracker.find("terminated")
    assert (record.status, record.tags["vqlab.failure"]) == ("KILLED", "ended by SIGTERM")
    assert tracker.find("killed").status == "RUNNING"
    Tracker.open(root)
    record = tracker.find("killed")
    assert (record.status, record.tags["vqlab.failure"]) == ("FAILED", "interrupted")
    assert record.duration is not None


def test_sigterm_marks_the_run_as_killed(tracker: Tracker) -> None:
    with pytest.raises(Terminated), start(tracker, "terminated"):
        signal.raise_signal(signal.SIGTERM)
    record = tracker.find("terminated")
    assert (record.status, record.tags["vqlab.failure"]) == ("KILLED", "ended by SIGTERM")


def test_only_runs_of_dead_processes_are_reconciled(tracker: Tracker) -> None:
    start(tracker, "own")
    start(tracker, "elsewhere").set_tags({"vqlab.host": "another", "vqlab.pid": "1"})
    start(tracker, "reused number").set_tags({"vqlab.process_start": "5"})
    start(tracker, "of an older vqlab").set_tags({"vqlab.process_place": "", "vqlab.pid": "-1"})
    assert [r.name for r in tracker.reconcile()] == ["reused number"]
    assert tracker.reconcile() == []
    assert sorted(r.name for r in tracker.runs() if r.status == "RUNNING") == [
        "elsewhere",
        "of an older vqlab",
        "own",
    ]


def test_resumed_run_has_no_duplicate_values(tracker: Tracker) -> None:
    with pytest.raises(KeyboardInterrupt), start(tracker, "stopped") as first:
        for step in range(3):
            first.log_metrics({"train/loss": float(step)}, step)
        first.log_pictures({"a/b": BLACK}, 2)
        first.folder.mkdir(parents=True)
        raise KeyboardInterrupt
    for reference in (first.id, first.id[:6], "stopped"):
        with (
            pytest.raises(KeyboardInterrupt),
            tracker.resume(reference, system_metrics=True) as run,
        ):
            assert run.id == first.id and run.name == "stopped" and run.folder.is_dir()
            assert tracker.find(first.id).status == "RUNNING"
            assert "vqlab.failure" not in tracker.find(first.id).tags
            raise KeyboardInterrupt
    with tracker.resume("stopped", system_metrics=True) as run:
        assert run.logged_steps("train/loss") == {0, 1, 2}
        for step in range(1, 5):
            for _ in range(2):
                run.log_metrics({"train/loss": float(step), "new": 1.0}, step)
        run.log_pictures({"a/b": BLACK, "c": BLACK}, 2)
        run.log_pictures({"a/b": BLACK}, 4)
    assert tracker.find("stopped").status == "FINISHED"
    assert history(tracker, run.id, "train/loss") == [(s, float(s)) for s in range(5)]
    assert history(tracker, run.id, "new") == [(s, 1.0) for s in range(1, 5)]
    assert len(list(run.artifact("images").glob("*.png"))) == 3
    steps = [step for step, _ in history(tracker, run.id, "system/disk_available_megabytes")]
    assert steps == [0, 1, 2, 3]


def test_invalid_resume_raises(tracker: Tracker) -> None:
    with pytest.raises(UserError, match="no run 'x'; .* contains no runs"):
        tracker.resume("x")
    run = start(tracker, "vqvae-cable")
    with pytest.raises(UserError, match=rf"still being written by process {os.getpid()}"):
        tracker.resume("vqvae-cable")
    run.finish()
    with pytest.raises(UserError, match="vqvae-cable .* is complete"):
        tracker.resume(run.id[:8])
    with pytest.raises(UserError, match=r"no run 'vqvae-cabel'; similar runs: vqvae-cable \("):
        tracker.find("vqvae-cabel")
    with pytest.raises(UserError, match=r"no run 'zzz'; latest runs: vqvae-cable \("):
        tracker.find("zzz")
    with pytest.raises(UserError, match="no run ''"):
        tracker.find("")
    start(tracker, "vqvae-cable").finish()
    with pytest.raises(UserError, match="'vqvae-cable' is ambiguous; 2 runs match.*give a run ID"):
        tracker.find("vqvae-cable")


def test_runs_as_a_leaderboard(tracker: Tracker) -> None:
    values = {"good": 0.9, "best": 0.95, "broken": float("nan"), "unmeasured": None}
    for name, value in values.items():
        with start(tracker, name, kind="train", study="S'1") as run:
            if value is not None:
                run.log_metrics({"test/image_auroc": 0.1}, 0)
                run.log_metrics({"test/image_auroc": value}, 1)
    start(tracker, "trial", kind="trial").finish()
    start(tracker, "other", experiment="odd name/../", kind="train").finish()
    runs = [r for r in tracker.runs(kinds=["train"]) if r.experiment == "cable"]
    names = [r.name for r in ranked(runs, "test/image_auroc", ascending=False)]
    assert names[:2] == ["best", "good"] and set(names[2:]) == {"broken", "unmeasured"}
    up = ranked(runs, "test/image_auroc", ascending=True)
    assert [r.name for r in up][:2] == ["good", "best"]
    assert {r.name for r in tracker.runs(tags={"vqlab.study": "S'1"})} == set(values)
    assert tracker.runs(tags={"vqlab.study": "S"}) == []
    assert len(tracker.runs()) == 6 and tracker.runs()[0].name == "other"
    assert tracker.runs()[0].experiment == "odd name/../"


def test_nested_runs_are_selected_by_their_parent(tracker: Tracker) -> None:
    study = {"study": "cable-vqvae-1a2b3c4d"}
    parent = start(tracker, "vqvae-1a2b3c4d", kind="study", **study)
    with tracker.start(
        experiment="cable",
        name="003 K=512 · vqvae",
        parent=parent.id,
        tags={"vqlab.kind": "trial", "vqlab.trial": "3", "vqlab.study": study["study"]},
    ) as child:
        pass
    trained = start(tracker, "vqvae quick", kind="train", detector="vqvae", category="cable")
    assert tracker.find(child.id).tags["mlflow.parentRunId"] == parent.id
    assert tracker.find("003 K=512 · vqvae").run_id == child.id
    assert tracker.find("cable-vqvae-1a2b3c4d-003").run_id == child.id
    assert tracker.find("cable-vqvae-1a2b3c4d").run_id == parent.id
    assert tracker.find("vqvae-cable").run_id == trained.id
    with pytest.raises(UserError, match=r"similar runs: 003 K=512"):
        tracker.find("cable-vqvae-1a2b3c4e-003")


def test_keys_of_different_names_differ(tracker: Tracker) -> None:
    with tracker.start(experiment="Nut", name="n\udcfc" * 200, params={"root": "/n\udcfc"}) as run:
        run.log_metrics({"test/nut#1/x": 1.0, "test/nut?1/x": 2.0, "test/nut_1/x": 3.0})
        run.set_tags({"vqlab.category": 'it\'s "x" \udcfc'})
        run.log_yaml({"data": {"root": "/n\udcfc"}}, "config.yaml")
        run.log_dataset("n\udcfc" * 300, "ab" * 32, "/n\udcfc", "train")
        run.log_pictures({"划/痕": BLACK, "外/壳": BLACK})
    (record,) = tracker.runs(tags={"vqlab.category": 'it\'s "x" \udcfc'})
    assert record.config() == {"data": {"root": "/n\udcfc"}}
    assert sorted(record.metrics.values()) == [1.0, 2.0, 3.0]
    assert record.metrics["test/nut_1/x"] == 3.0
    assert record.params == {"root": r"/n\xfc"}
    assert tracker.runs(tags={"vqlab.category": 'it\'s "y"'}) == []
    keys = {path.name.partition("+")[0] for path in run.artifact("images").iterdir()}
    assert len(keys) == 2


def test_each_experiment_has_its_own_folder(tracker: Tracker, tmp_path: Path) -> None:
    for name in ("nut#1", "nut_1", "Gehäuse"):
        with tracker.start(experiment=name, name="run") as run:
            run.log_text("x", "x.txt")
    folders = {path.name for path in (tracker.root / "artifacts").iterdir()}
    assert len(folders) == 3 and "nut_1" in folders
    location = tracker._client.get_experiment_by_name("nut_1").artifact_location
    assert location.endswith("/nut_1")


def test_moved_folder_keeps_its_artifacts(tracker: Tracker, tmp_path: Path) -> None:
    with start(tracker, "old") as run:
        run.log_text("weights", CHECKPOINT)
    tracker.registry.set_champion(tracker.registry.register(run.id, CHECKPOINT, "cable"), None)
    shutil.copytree(tracker.root, tmp_path / "moved" / "mlruns")
    shutil.rmtree(tracker.root)
    moved = Tracker.open(tmp_path / "moved" / "mlruns")
    assert moved.champion("cable").checkpoint.is_relative_to(tmp_path / "moved")
    with start(moved, "new") as new:
        pass
    assert new.artifact("").is_relative_to(tmp_path / "moved")
    assert not tracker.root.exists()


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = locate(Path("mlruns"))
    assert store.uri == f"sqlite:///{tmp_path}/mlruns/mlflow.db?timeout=60"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other/runs.db")
    store = locate(Path("mlruns"))
    assert (store.database, store.artifacts) == (
        tmp_path / "other/runs.db",
        tmp_path / "other/artifacts",
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:1/")
    assert locate(Path("mlruns")).web == "http://127.0.0.1:1"
    started = time.monotonic()
    with pytest.raises(UserError, match=r"server http://127\.0\.0\.1:1 does not respond") as error:
        Tracker.open()
    assert time.monotonic() - started < 60, "MLflow's own retries take minutes"
    assert "secret" not in str(error.value)
    with pytest.raises(UserError, match="open http://127"):
        ui_command(Path("mlruns"))
    for address in ("file:./mlruns", "./mlruns", "sqlite://", "sqlite:///:memory:", "databricks"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(UserError, match=f"MLFLOW_TRACKING_URI must be .*{address}"):
            Tracker.open()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="must not contain"):
        Tracker.open(tmp_path / "100%")


def test_reading_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiment").mkdir()
    with pytest.raises(UserError, match=r"no tracked runs in .*/mlruns .*train or sweep first"):
        Tracker.open(tmp_path / "mlruns", create=False)
    with pytest.raises(UserError, match="no tracked runs"):  # a folder without a store
        Tracker.open(tmp_path / "experiment", create=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other/runs.db")
    with pytest.raises(UserError, match="runs.db does not exist; check MLFLOW_TRACKING_URI"):
        Tracker.open(tmp_path / "mlruns", create=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["experiment"]


def test_similar_store_name_is_suggested(tracker: Tracker) -> None:
    assert Tracker.open(tracker.root, create=False).runs() == []
    with pytest.raises(UserError, match=r"did you mean mlruns\?"):
        Tracker.open(tracker.root.with_name("mlrun"), create=False)
    assert not tracker.root.with_name("mlrun").exists()


def test_database_at_another_path_is_read_without_creating_a_folder(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(empty_store / "mlflow.db", tmp_path / "other" / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other/runs.db")
    assert Tracker.open(tmp_path / "mlruns", create=False).runs() == []
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("state", "message"),
    [("COMPLETE", "command with `--test 4` added .make: TEST=4"), ("PRUNED", "early")],
)
def test_checkpoint_deleted_by_its_sweep_raises(tracker: Tracker, state: str, message: str) -> None:
    tags = {"kind": "trial", "study": "S", "trial": "4", "category": "cable"}
    with start(tracker, "trial", **tags) as run:
        run.set_tags({"optuna.state": state})
        run.log_text("weights", CHECKPOINT)
    assert tracker.find(run.id).checkpoint().read_text() == "weights"
    tracker.delete_artifact(run.id, "checkpoint")
    with pytest.raises(UserError, match=f"was not kept: it is trial 4 of study S.*{message}"):
        tracker.find(run.id).checkpoint()
    start(tracker, "plain", kind="train").finish()
    with pytest.raises(UserError, match="has no artifact"):
        tracker.find("plain").checkpoint()


def test_sqlite_file_with_another_name(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(empty_store / "mlflow.db", tmp_path / "other" / "runs.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other/runs.db")
    tracker = Tracker.open(tmp_path / "mlruns")
    with start(tracker) as run:
        run.log_text("x", "a.txt")
    assert run.artifact("a.txt").is_relative_to(tmp_path / "other" / "artifacts" / "cable")
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_unusable_locations_raise(empty_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(UserError, match=f"{file} must be a folder"):
        Tracker.open(file)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "mlflow.db").write_bytes(b"no database " * 1000)
    with pytest.raises(UserError, match=f"database in {damaged} is damaged"):
        Tracker.open(damaged)
    older = tmp_path / "older"
    shutil.copytree(empty_store, older)
    with contextlib.closing(sqlite3.connect(older / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0a8213491aaa'")
        connection.commit()
    with pytest.raises(UserError, match="another version of MLflow.*mlflow db upgrade"):
        Tracker.open(older)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and the permissions of a user with read access only for the duration of the
    test."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def drop_privileges(folder: Path) -> None:
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)


def test_read_only_folder(unprivileged: Path) -> None:
    drop_privileges(unprivileged)
    with pytest.raises(UserError, match="mlruns cannot be written: Permission denied"):
        Tracker.open(unprivileged / "mlruns")
    assert not list(unprivileged.iterdir())


def test_read_only_database(unprivileged: Path, empty_store: Path) -> None:
    shutil.copytree(empty_store, unprivileged / "mlruns")
    for path in [unprivileged / "mlruns", *(unprivileged / "mlruns").rglob("*")]:
        path.chmod(0o777 if path.is_dir() or path.suffix == ".lock" else 0o444)
    drop_privileges(unprivileged)
    with pytest.raises(UserError, match="the database in .* cannot be written"):
        Tracker.open(unprivileged / "mlruns")


def test_full_disk(small_disk: Path, empty_store: Path) -> None:
    """The error is raised before work starts, and during the run; data written earlier is not
    damaged."""
    root = small_disk / "mlruns"
    shutil.copytree(empty_store, root)
    tracker = Tracker.open(root)
    run = start(tracker, "filled")
    run.log_metrics({"train/loss": 1.0}, 0)
    with pytest.raises(UserError, match="the disk is full"), run:
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        for step in range(1, 3000):
            run.log_metrics({f"key{i}": 1.0 for i in range(100)}, step)
    with pytest.raises(UserError, match="mlruns cannot be written: the disk is full"):
        Tracker.open(root)
    (small_disk / "filler").unlink()
    assert history(Tracker.open(root), run.id, "train/loss") == [(0, 1.0)]
    assert not [p for p in root.iterdir() if p.name.startswith(".probe")]


def test_deleted_experiment_is_restored(tracker: Tracker) -> None:
    run = start(tracker)
    run.finish()
    tracker._client.delete_experiment(run.experiment_id)
    assert tracker.runs() == []
    start(tracker, "two").finish()
    assert {r.name for r in tracker.runs()} == {"one", "two"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server, as started by `vqlab ui`, on a separate store."""
    root = tmp_path_factory.mktemp("server") / "mlruns"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    Tracker.open(root)
    arguments, environment = ui_command(root, port=port)
    log = (root.parent / "log").open("w+")
    process = subprocess.Popen(
        arguments, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health"):
                break
            assert process.poll() is None, (root.parent / "log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@pytest.mark.slow
def test_all_operations_through_a_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    tracker = Tracker.open(tmp_path / "mlruns")
    parent = start(tracker, "parent")
    with pytest.raises(KeyboardInterrupt):
        with tracker.start(
            experiment="cable", name="one", params={"a.b": 1}, parent=parent.id, system_metrics=True
        ) as run:
            run.log_metrics({"train/loss": 1.0}, 0)
            run.log_pictures({"a/b": BLACK}, 0)
            run.log_dataset("cable", "ab" * 32, "/somewhere", "train")
            run.log_yaml({"a": {"b": 1}}, "config.yaml")
            raise KeyboardInterrupt
    with tracker.resume("one", system_metrics=True) as run:
        assert tracker.find(run.id).config() == {"a": {"b": 1}}
        assert run.logged_steps("train/loss") == {0}
        run.log_metrics({"train/loss": 2.0}, 0)
        run.log_metrics({"train/loss": 3.0}, 1)
        run.log_pictures({"a/b": BLACK}, 0)
        run.log_text("weights", CHECKPOINT)
    record = tracker.find("one")
    assert record.status == "FINISHED" and record.metrics["train/loss"] == 3.0
    assert len(list(record.artifact("images").glob("*.png"))) == 1
    assert record.checkpoint().read_text() == "weights"
    with pytest.raises(UserError, match="no-such-thing"):
        record.artifact("no-such-thing")
    assert run.link == f"{server}/#/experiments/{run.experiment_id}/runs/{run.id}{MODE}"
    assert tracker.reconcile() == [] and tracker.find("parent").status == "RUNNING"

    registry = tracker.registry
    with pytest.raises(UserError, match="'cable' has no champion"):
        tracker.champion("cable")
    registry.set_champion(registry.register(run.id, CHECKPOINT, "cable", {"t": "1"}), None)
    champion = tracker.champion("cable")
    assert champion.checkpoint.read_text() == "weights" and champion.tags["t"] == "1"
    all_tags = run.artifact("")
    assert {"environment.json", "config.yaml", "images", "checkpoint"} == set(
        os.listdir(all_tags)
    ) and (all_tags / CHECKPOINT).read_text() == "weights"
    tracker.delete_artifact(run.id, "images")
    assert tracker._client.list_artifacts(run.id, "images") == []
    with pytest.raises(UserError, match="images"):
        tracker.find("one").artifact("images/absent.png")
    champion.checkpoint.write_text("a damaged download")
    assert tracker.champion("cable").checkpoint.read_text() == "weights"
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


@pytest.mark.slow
def test_waits_for_a_locked_store(tracker: Tracker) -> None:
    """The lock outlasts MLflow's timeout of 20 seconds, and nothing is written twice."""
    run = start(tracker)
    database = tracker.root / "mlflow.db"
    holding = (
        "import sqlite3, sys, time\n"
        "store = sqlite3.connect(sys.argv[1]); store.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True); time.sleep(25); store.rollback()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", holding, str(database)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None and other.stdout.readline() == "locked\n"
    began = time.monotonic()
    run.log_metrics({"validation/aupro": 0.5}, step=1)
    assert time.monotonic() - began > 15
    other.communicate()
    run.finish()
    assert run.logged_steps("validation/aupro") == {1}
    assert tracker.find(run.id).status == "FINISHED"
