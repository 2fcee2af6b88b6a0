"""Stores and home directories without write access."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vqlab.tracking import Tracker
from vqlab.types import UserError


@pytest.fixture
def read_only(empty_mlruns: Path, tmp_path: Path) -> Iterator[Path]:
    """A store with a finished run on a file system that is mounted read-only."""
    root = empty_mlruns
    with Tracker.open(root).start(experiment="cable", name="one") as run:
        run.log_metrics({"test/image_auroc": 0.9})
        run.log_text("text", "notes.txt")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    commands = (
        ["mount", "--bind", str(root), str(mounted)],
        ["mount", "-o", "remount,ro,bind", str(mounted)],
    )
    if os.geteuid() or any(subprocess.run(c, capture_output=True).returncode for c in commands):
        pytest.skip("requires the permission to mount")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_read_only_store_can_be_read(read_only: Path) -> None:
    tracker = Tracker.open(read_only, create=False, write=False)
    (record,) = tracker.runs()
    assert record.metrics == {"test/image_auroc": 0.9}
    assert record.artifact("notes.txt").read_text() == "text"
    with pytest.raises(UserError, match="cannot be written"):
        Tracker.open(read_only, create=False)
    with pytest.raises(UserError, match="cannot be written"):
        Tracker.open(read_only)


@pytest.mark.slow
def test_leaderboard_of_a_read_only_store(read_only: Path) -> None:
    command = [sys.executable, "-m", "vqlab", "leaderboard", "--csv", "--mlruns", str(read_only)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=read_only.parent)
    assert not done.returncode and "one" in done.stdout, done.stderr
    assert sorted(path.name for path in read_only.parent.iterdir()) == ["mlruns", "mounted"]


FEATURES = """
import numpy as np
from vqlab.features.store import cached_records
make = lambda: iter([np.ones((2, 3), np.float16)])
kept = [cached_records("one", {"key": "a"}, 2, 3, make) for _ in range(2)]
print(kept[1].path, kept[1].hit)
"""


def test_features_are_cached_elsewhere_if_the_home_is_read_only(tmp_path: Path) -> None:
    around = {k: v for k, v in os.environ.items() if k != "VQLAB_CACHE"}
    around |= {"HOME": "/proc/nohome", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", FEATURES]
    done = subprocess.run(command, env=around, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    path, folder = done.stdout.split()
    assert Path(path).is_relative_to(tmp_path) and folder == "True"
    assert "VQLAB_CACHE" in done.stderr and len(done.stderr.splitlines()) == 1
    shutil.rmtree(Path(path).parent)
