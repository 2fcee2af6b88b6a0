"""Promotion with an acceptance report on a full file system."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from promotions import Train

from vqlab.errors import UserError
from vqlab.promote import history, promote
from vqlab.tracking import Tracker


@contextlib.contextmanager
def full(disk: Path, free: int = 0) -> Iterator[None]:
    """Fill a disk up to `free` bytes."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with filler.open("rb+") as file:
        file.truncate(filler.stat().st_size - free)
    yield
    filler.unlink()


def test_no_version_is_registered_if_the_disk_is_full(
    train: Train, tracker: Tracker, small_disk: Path
) -> None:
    assert promote(tracker, "part", ref=train("a", 0.9)).promoted
    better = train("b", 0.95)
    with full(small_disk), pytest.raises(UserError) as error:
        promote(tracker, "part", ref=better, output=small_disk)
    assert f"{small_disk}/acceptance cannot be written: the disk is full" in str(error.value)
    assert "re-run the command" in str(error.value)
    assert {each.version: each.state for each in history(tracker, "part")} == {1: "champion"}
    result = promote(tracker, "part", ref=better, output=small_disk)
    assert result.version == 2 and result.report is not None and result.report.is_file()


def test_disk_that_becomes_full_keeps_the_earlier_report_and_the_champion(
    train: Train, tracker: Tracker, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the check of the space, another program fills the disk."""
    first, worse, better = train("a", 0.9), train("b", 0.8), train("c", 0.95)
    assert promote(tracker, "part", ref=first).promoted
    refused = promote(tracker, "part", ref=worse, output=small_disk).report
    assert refused is not None
    before = refused.read_bytes()
    monkeypatch.setattr("vqlab.promote.promotion.require_space", lambda folder: None)
    for run in (worse, better):
        with full(small_disk, free=4096), pytest.raises(UserError, match="the disk is full"):
            promote(tracker, "part", ref=run, output=small_disk)
        assert refused.read_bytes() == before
        assert [each.name for each in refused.parent.iterdir()] == [refused.name]
    registry = tracker.registry
    assert registry.champion("part").run_id == first
    result = promote(tracker, "part", ref=better, output=small_disk)
    assert result.promoted and result.version == 2 and len(registry.versions("part")) == 2
