"""The versions of a category: states, users and times, values, gates."""

from __future__ import annotations

import json

import pytest
from commands import call, refusal
from promotions import Train

from vqlab.promote import history, promote, rollback
from vqlab.tracking import Tracker, user_name

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_versions_with_their_states(train: Train, tracker: Tracker) -> None:
    ids = [train(f"r{number}", value) for number, value in enumerate((0.90, 0.92, 0.94))]
    for run_id in ids:
        promote(tracker, "part", ref=run_id)
    assert [(v.version, v.state, v.replaced) for v in history(tracker, "part")] == [
        (3, "champion", 2), (2, "previous", 1), (1, "former", None),
    ]  # fmt: skip
    rollback(tracker, "part")
    newest, champion, first = history(tracker, "part")
    assert (newest.state, newest.rolled_back_to, champion.state) == ("rolled back", 2, "champion")
    assert champion.restored_at and newest.rolled_back_by == newest.promoted_by == user_name()
    assert (newest.run_id, newest.run) == (ids[2], "r2")
    assert (newest.value, newest.champion_value, first.champion_value) == (0.94, 0.92, None)
    assert first.state == "previous" and "passed" in first.gates and "the first" in first.reason
    tracker._client.delete_run(ids[0])
    assert history(tracker, "part")[2].run == "r0"  # deleted, but not permanently


def test_command(train: Train, tracker: Tracker) -> None:
    promote(tracker, "part", ref=train("a", 0.9))
    mlruns = ["--mlruns", str(tracker.root)]
    (version,) = json.loads(call("history", "part", "--json", *mlruns))
    assert (version["version"], version["state"], version["value"]) == (1, "champion", 0.9)
    for words in (["part"], ["--category", "part"]):
        assert "champion" in call("history", *words, *mlruns)
    for words, sentence in (
        ([], "a category is required"),
        (["part", "-c", "other"], "only one category is allowed; got part and --category other"),
        (["prat"], "did you mean part"),
    ):
        assert sentence in refusal("history", *words, *mlruns)
