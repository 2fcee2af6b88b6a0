"""Rollback to an earlier champion."""

from __future__ import annotations

import pytest
from promotions import Train, champion

from vqlab.promote import promote, rollback
from vqlab.tracking import PREVIOUS, Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_repeated_rollback_follows_the_history(train: Train, tracker: Tracker) -> None:
    """A version that was rolled back is not promoted by another rollback."""
    for number, value in enumerate((0.90, 0.92, 0.94, 0.96), 1):
        assert promote(tracker, "part", ref=train(f"r{number}", value)).version == number
    registry = tracker.registry
    assert registry.history("part") == [1, 2, 3, 4]
    assert [rollback(tracker, "part").version for _ in range(3)] == [3, 2, 1]
    assert registry.by_alias("part", PREVIOUS) is None
    with pytest.raises(UserError, match=r"no champion before version 1; .*--to \(2, 3, 4\)"):
        rollback(tracker, "part")
    assert rollback(tracker, "part", to=3).version == 3 and registry.history("part") == [1, 3]
    assert rollback(tracker, "part").version == 1
    with pytest.raises(UserError, match="version 1 is already the champion of part"):
        rollback(tracker, "part", to=1)
    with pytest.raises(UserError, match=r"no version 9; choose a version with --to \(2, 3, 4\)"):
        rollback(tracker, "part", to=9)
    assert champion(tracker) == 1


def test_rollback_after_a_version_was_promoted_twice(train: Train, tracker: Tracker) -> None:
    first, second = train("one", 0.9), train("two", 0.95)
    promote(tracker, "part", ref=first)
    promote(tracker, "part", ref=second)
    promote(tracker, "part", ref=first, force=True)
    assert tracker.registry.history("part") == [1, 2, 1]
    assert [rollback(tracker, "part").version for _ in range(2)] == [2, 1]
    with pytest.raises(UserError, match="no champion before"):
        rollback(tracker, "part")


def test_rollback_in_a_store_without_a_recorded_history(train: Train, tracker: Tracker) -> None:
    """Stores of an earlier vqlab have only the tags of the versions."""
    for number, value in enumerate((0.90, 0.92, 0.94), 1):
        promote(tracker, "part", ref=train(f"r{number}", value))
        version = tracker.registry.versions("part")[0]
        tracker.registry.set_tags(version, {"vqlab.promoted_at": f"2026-01-0{number}T00:00:00"})
    tracker._client.delete_registered_model_tag("vqlab-part", "vqlab.champions")
    assert tracker.registry.history("part") == [1, 2, 3]
    assert [rollback(tracker, "part").version for _ in range(2)] == [2, 1]


def test_rollback_to_a_version_without_checkpoint(train: Train, tracker: Tracker) -> None:
    first = train("a", 0.9)
    promote(tracker, "part", ref=first)
    promote(tracker, "part", ref=train("b", 0.95))
    tracker.delete_artifact(first, "checkpoint")
    with pytest.raises(UserError, match="version 1 of part cannot be used: run .* has no artifact"):
        rollback(tracker, "part")
    assert champion(tracker) == 2 and tracker.registry.history("part") == [1, 2]


def test_rollback_without_an_earlier_champion(train: Train, tracker: Tracker) -> None:
    with pytest.raises(UserError, match="has no champion"):
        rollback(tracker, "part")
    promote(tracker, "part", ref=train("a", 0.9))
    with pytest.raises(UserError, match="no champion before version 1; promote another run"):
        rollback(tracker, "part")
