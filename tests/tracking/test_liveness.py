"""Whether the process of a run is alive: clocks, reused PIDs, containers, locks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import start_program

from vqlab.tracking import Tracker
from vqlab.tracking.liveness import owner_is_gone, owner_tags

HOLD = """
import json, sys, time
from pathlib import Path
from vqlab.tracking.liveness import owner_tags
print(json.dumps(owner_tags(Path(sys.argv[1]))), flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def hold(root: Path, *before: str) -> Iterator[tuple[dict[str, str], Callable[[], object]]]:
    """Start a process that owns a run in the store `root`; return its tags and a function that
    kills it."""
    if not before:
        process = start_program(HOLD, root, cwd=root)
        yield json.loads(process.first_line()), process.kill
        process.kill()
        return
    with subprocess.Popen(
        [*before, sys.executable, "-c", HOLD, str(root)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def kill() -> None:
            process.kill()
            process.communicate()  # wait until all processes that hold its output have exited

        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), kill
        process.kill()


@pytest.fixture
def new_namespace() -> list[str]:
    """A command that starts another command in a new PID namespace, as a container does."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    allowed = shutil.which("unshare") and not subprocess.run([*command, "true"]).returncode
    if not allowed:
        pytest.skip("needs the right to make a PID namespace")
    return command


def test_current_process_is_alive(tmp_path: Path) -> None:
    tags = owner_tags(tmp_path)
    assert not owner_is_gone(tags) and not owner_is_gone(tags, tmp_path)
    assert owner_is_gone({**tags, "vqlab.process_start": "1"})  # the PID was reused


def test_process_of_this_namespace_is_checked_by_pid(tmp_path: Path) -> None:
    with hold(tmp_path) as (tags, kill):
        assert not owner_is_gone(tags)
        kill()
        assert owner_is_gone(tags)


def test_process_of_another_namespace_is_checked_by_its_lock(
    tmp_path: Path, new_namespace: list[str]
) -> None:
    with hold(tmp_path, *new_namespace) as (tags, kill):
        assert tags["vqlab.pid"] == "1" and tags["vqlab.host"] == os.uname().nodename
        assert not owner_is_gone(tags, tmp_path)
        kill()
        assert owner_is_gone(tags, tmp_path)
        assert not owner_is_gone(tags), "without the lock the state is unknown"


def test_unknown_process_counts_as_alive(tmp_path: Path) -> None:
    with hold(tmp_path) as (tags, kill):
        kill()
    elsewhere = {"vqlab.host": "another", "vqlab.process_place": "another-boot pid:[1]"}
    assert not owner_is_gone({**tags, **elsewhere}, tmp_path)
    older = {"vqlab.host": tags["vqlab.host"], "vqlab.pid": tags["vqlab.pid"]}
    assert not owner_is_gone(older, tmp_path)
    assert not owner_is_gone({}, tmp_path)


def test_lock_is_free_after_a_reboot(tmp_path: Path) -> None:
    with hold(tmp_path) as (tags, kill):
        rebooted = {**tags, "vqlab.process_place": "earlier-boot pid:[1]"}
        assert not owner_is_gone(rebooted, tmp_path)
        kill()
        assert owner_is_gone(rebooted, tmp_path)


def test_finished_run_has_no_failure(store: Tracker) -> None:
    """Also if another process considered this one dead in the meantime."""
    with store.start(experiment="cable", name="considered dead") as run:
        store._client.set_tag(run.id, "vqlab.process_start", "1")
        assert [r.run_id for r in store.reconcile()] == [run.id]
        record = store.find(run.id)
        assert (record.status, record.tags["vqlab.failure"]) == ("FAILED", "interrupted")
    record = store.find(run.id)
    assert record.status == "FINISHED" and "vqlab.failure" not in record.tags
