"""A checkpoint that does not reproduce its scores is not promoted."""

from __future__ import annotations

import csv

import pytest
from promotions import champion

from vqlab.promote import promote
from vqlab.promote.reproduce import score_images
from vqlab.run import Outcome
from vqlab.tracking import Tracker
from vqlab.types import UserError

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_checkpoint_with_other_scores_is_refused(
    tested: Outcome, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    table = tracker.find(tested.run_id).artifact("results/part/scores.csv")
    before = table.read_bytes()
    rows = list(csv.reader(before.decode().splitlines()))
    column = rows[0].index("score")
    rows[1][column] = repr(float(rows[1][column]) * 1.001)
    try:
        with table.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        with pytest.raises(UserError, match="when it was tested"):
            promote(tracker, "part", ref="tested")
    finally:
        table.write_bytes(before)
    assert champion(tracker) is None and not tracker.registry.versions("part")
