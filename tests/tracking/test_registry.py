"""Registered versions and champions."""

from __future__ import annotations

import pytest
from tracked_runs import start

from vqlab.errors import UserError
from vqlab.tracking import CHECKPOINT, PREVIOUS, Tracker
from vqlab.tracking.categories import category_tags


def test_registry(tracker: Tracker) -> None:
    registry = tracker.registry
    with pytest.raises(UserError, match="'cable' has no champion; train and promote"):
        tracker.champion("cable")
    assert registry.by_alias("cable") is None and registry.versions("cable") == []
    versions = []
    for number in range(3):
        with start(tracker, f"run{number}") as run:
            run.log_text(f"weights {number}", CHECKPOINT)
        versions.append(registry.register(run.id, CHECKPOINT, "cable", {"vqlab.metric": "0.9"}))
    with pytest.raises(UserError, match="has no artifact 'absent'"):
        registry.register(run.id, "absent", "cable")
    assert [v.version for v in registry.versions("cable")] == [3, 2, 1]
    assert registry.by_alias("cable") is None
    first, second, third = versions
    registry.set_champion(first, None)
    registry.set_champion(second, first)
    with pytest.raises(UserError, match=r"has a new champion \(version 2\)"):
        registry.set_champion(third, first)
    assert registry.history("cable") == [1, 2]
    champion = tracker.champion("cable")
    assert (champion.version, champion.run_id) == (2, second.run_id)
    assert champion.checkpoint.read_text() == "weights 1"
    assert champion.tags["vqlab.metric"] == "0.9"
    previous = registry.by_alias("cable", PREVIOUS)
    assert previous is not None and previous.version == 1
    registry.set_tags(second, {"vqlab.reason": "better"})
    assert tracker.champion("cable").tags["vqlab.reason"] == "better"
    with pytest.raises(UserError, match="'screw' has no champion; categories with one: cable;"):
        tracker.champion("screw")
    champion.checkpoint.write_text("tampered")
    with pytest.raises(UserError, match="is not the file that was registered as version 2"):
        tracker.champion("cable")
    champion.checkpoint.unlink()
    with pytest.raises(UserError, match="has no artifact"):
        tracker.champion("cable")


STRANGE = [
    "nut_1",
    "nut#1",
    "nut?1",
    "a+b",
    ("a", "b"),
    "Nut_1",
    "a_b",
    "joint",
    "划痕",
    "x" * 250,
    'it\'s "x"',
]


def test_each_category_has_its_own_model(tracker: Tracker) -> None:
    registry = tracker.registry
    for number, category in enumerate(STRANGE):
        assert registry.by_alias(category) is None
        with start(tracker, f"run{number}") as run:
            run.log_text(f"weights {number}", CHECKPOINT)
        registry.set_champion(registry.register(run.id, CHECKPOINT, category), None)
    checkpoints = [registry.champion(category).checkpoint.read_text() for category in STRANGE]
    assert checkpoints == [f"weights {number}" for number in range(len(STRANGE))]
    assert [len(registry.versions(category)) for category in STRANGE] == [1] * len(STRANGE)


def test_name_with_a_plus_is_one_category_or_several(tracker: Tracker) -> None:
    with start(tracker, "run") as run:
        run.log_text("weights", CHECKPOINT)
    joint = tracker.registry.register(run.id, CHECKPOINT, ("a", "b"))
    assert tracker.registry.versions("a+b") == [joint]
    tracker.registry.set_champion(joint, None)
    assert tracker.champion("a+b").model == joint.model
    with tracker.start(experiment="a+b", name="own", tags=category_tags(["a+b"])):
        pass
    with pytest.raises(UserError, match="'a.b' has no champion"):
        tracker.champion("a+b")
    version = tracker.registry.register(run.id, CHECKPOINT, ("a+b",))
    assert version.model != joint.model
    assert tracker.registry.versions("a+b") == [version]
    assert tracker.registry.versions(("a", "b")) == [joint]


def test_models_of_earlier_versions_are_recognized(tracker: Tracker) -> None:
    """Their name may be that of other categories, and the category is in a tag."""
    client, registry = tracker._client, tracker.registry
    for name, category in (("vqlab-nut_1", "nut#1"), ("vqlab-a_b", "a+b")):
        client.create_registered_model(name, tags={"vqlab.category": category})
        with start(tracker, name) as run:
            run.log_text(category, CHECKPOINT)
        assert registry.register(run.id, CHECKPOINT, category).model == name
    assert registry.versions("nut_1") == [] and registry.versions("a_b") == []
    assert registry.register(run.id, CHECKPOINT, "nut_1").model.startswith("vqlab-nut_1-")
    assert len(registry.versions(("a", "b"))) == 1
