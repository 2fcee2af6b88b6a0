"""Whether the process of a run still lives: clocks, reused numbers, containers, locks."""

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
    """A process that owns something in the store `root`: its tags, and what kills it."""
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
            process.communicate()  # all that has its output open has ended then

        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), kill
        process.kill()


@pytest.fixture
def own_namespace() -> list[str]:
    """The command that starts another in a PID namespace of its own, as a container has."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    allowed = shutil.which("unshare") and not subprocess.run([*command, "true"]).returncode
    if not allowed:
        pytest.skip("needs the right to make a PID namespace")
    return command


def test_own_process_lives(tmp_path: Path) -> None:
    tags = owner_tags(tmp_path)
    assert not owner_is_gone(tags) and not owner_is_gone(tags, tmp_path)
    assert owner_is_gone({**tags, "vqlab.process_start": "1"})  # the number was given again


def test_a_process_of_this_namespace_is_looked_up(tmp_path: Path) -> None:
    with hold(tmp_path) as (tags, kill):
        assert not owner_is_gone(tags)
        kill()
        assert owner_is_gone(tags)


def test_a_process_of_another_namespace_is_known_by_its_lock(
    tmp_path: Path, own_namespace: list[str]
) -> None:
    with hold(tmp_path, *own_namespace) as (tags, kill):
        assert tags["vqlab.pid"] == "1" and tags["vqlab.host"] == os.uname().nodename
        assert not owner_is_gone(tags, tmp_path)
        kill()
        assert owner_is_gone(tags, tmp_path)
        assert not owner_is_gone(tags), "without the lock nothing is known"


def test_what_cannot_be_known_lives(tmp_path: Path) -> None:
    with hold(tmp_path) as (tags, kill):
        kill()
    elsewhere = {"vqlab.host": "another", "vqlab.process_place": "another-boot pid:[1]"}
    assert not owner_is_gone({**tags, **elsewhere}, tmp_path)
    older = {"vqlab.host": tags["vqlab.host"], "vqlab.pid": tags["vqlab.pid"]}
    assert not owner_is_gone(older, tmp_path)
    assert not owner_is_gone({}, tmp_path)


def test_after_the_machine_started_again_the_lock_is_free(tmp_path: Path) -> None:
    with hold(tmp_path) as (tags, kill):
        rebooted = {**tags, "vqlab.process_place": "earlier-boot pid:[1]"}
        assert not owner_is_gone(rebooted, tmp_path)
        kill()
        assert owner_is_gone(rebooted, tmp_path)


def test_a_finished_run_has_no_failure(store: Tracker) -> None:
    """Also where another process took this one for dead meanwhile."""
    with store.start(experiment="cable", name="taken for dead") as run:
        store._client.set_tag(run.id, "vqlab.process_start", "1")
        assert [r.run_id for r in store.reconcile()] == [run.id]
        record = store.find(run.id)
        assert (record.status, record.tags["vqlab.failure"]) == ("FAILED", "interrupted")
    record = store.find(run.id)
    assert record.status == "FINISHED" and "vqlab.failure" not in record.tags
