"""A checkpoint that does not reproduce its scores is not promoted."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from promotions import champion

from vqlab.promote import promote
from vqlab.promote.gates.gate import failed
from vqlab.promote.reproduce import score_images
from vqlab.run import Outcome
from vqlab.tracking import Tracker

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_checkpoint_with_other_scores_is_rejected(
    tested: Outcome, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        refused = promote(tracker, "part", ref="tested", output=tmp_path)
    finally:
        table.write_bytes(before)
    assert not refused.promoted and "gate reproduction: " in refused.reason
    (gate,) = failed(refused.gates)
    assert gate.name == "reproduction" and rows[1][column] in gate.sentence
    assert gate.measured == "0.001" and gate.required == "≤ 1e-05"
    assert "when it was tested" in (tmp_path / "acceptance" / "part-refused.html").read_text()
    assert champion(tracker) is None and not tracker.registry.versions("part")
