"""Gates decide a promotion and are recorded with the version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from promotions import METRIC, Train, champion
from tiny_set import baseline_recipe

from vqlab.promote import GateSettings, promote
from vqlab.promote.reproduce import score_images
from vqlab.run import Outcome, Recording, resolve, run
from vqlab.tracking import Tracker

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_gates_are_recorded_with_the_version(tested: Outcome, tracker: Tracker) -> None:
    """All gates pass after the checkpoint has reproduced its scores in a new process."""
    result = promote(tracker, "part", ref="tested", gates=GateSettings(code="ignore"))
    assert tested.test is not None and result.value == tested.test.mean["image_auroc"]
    reproduced = tracker.champion("part").tags["vqlab.reproduced"]
    assert reproduced.endswith("bit for bit") and int(reproduced.split()[0]) >= 4
    assert {gate.name: gate.status for gate in result.gates} == {
        METRIC: "not applicable", "promise": "passed", "codebook": "not applicable",
        "baseline": "not applicable",
        "selection": "passed", "shifts": "passed", "code": "passed", "reproduction": "passed",
        "latency": "not applicable", "memory": "not applicable",
    }  # fmt: skip
    costs = {gate.name: gate.value for gate in result.gates}
    assert costs["latency"] and costs["memory"] and costs["memory"] > 100
    stored = tracker._client.get_model_version("vqlab-part", "1")
    assert "| promise | passed |" in stored.description
    assert "vqlab rollback -c part" in stored.description
    assert stored.tags["vqlab.gates"] == "5 passed, 5 not applicable"
    logged = json.loads(tracker.find("tested").artifact("acceptance/gates.json").read_text())
    assert logged["version"] == 1 and logged["reason"] == result.reason
    assert [gate["name"] for gate in logged["gates"]] == [gate.name for gate in result.gates]
    assert logged["settings"]["code"] == "ignore"


def test_violated_guarantee_is_rejected_even_with_force(train: Train, tracker: Tracker) -> None:
    run_id = train("strict", 0.9)
    violating = {"test/false_reject_rate": 0.9, "test/normal_images": 40.0}
    tracker.amend(run_id).log_metrics(violating)
    for force in (False, True):
        refused = promote(tracker, "part", ref=run_id, force=force)
        assert not refused.promoted and champion(tracker) is None
        assert "gate promise: 36 of 40 normal test images were rejected" in refused.reason
        assert "vqlab threshold part --good FOLDER" in refused.reason
    assert not tracker.registry.versions("part")
    warned = promote(tracker, "part", ref=run_id, gates=GateSettings(promise="warn"))
    assert warned.promoted and "warning (promise" in tracker.champion("part").tags["vqlab.gates"]


def test_runs_with_evidence_are_compared_by_the_paired_bootstrap(
    root: Path, tested: Outcome, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the champion is not better."""
    monkeypatch.setattr("vqlab.promote.reproduce.score_in_fresh_process", score_images)
    assert promote(tracker, "part", ref="tested").promoted
    same = run(resolve(baseline_recipe(root)), tracker, Recording(name="same", results=tmp_path))
    refused = promote(tracker, "part", ref=same.run_id)
    status = {gate.name: gate.status for gate in refused.gates}
    assert status["image_auroc"] == status["escape_rate"] == "passed"
    assert status["improvement"] == "failed" and "gate improvement: Of" in refused.reason
    assert promote(tracker, "part", ref=same.run_id, force=True).promoted
    assert champion(tracker) == 2
