"""Promotion gates: passed, failed, and warnings."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqlab.evaluation import (
    AS_CAPTURED,
    CalibrationScores,
    CategoryEvidence,
    ShiftErrors,
    ShiftTable,
    Thresholds,
)
from vqlab.metrics import Evidence, ThresholdCounts, distributions, rates, resample
from vqlab.promote import GateSettings, gate_settings
from vqlab.promote.gates.champion import Contender, paired_gates
from vqlab.promote.gates.gate import Gate, failed, summary
from vqlab.promote.gates.model import (
    baseline_gate,
    code_gate,
    codebook_gate,
    promise_gate,
    shift_gate,
)
from vqlab.promote.gates.process import process_gates
from vqlab.promote.reproduce import Reproduction
from vqlab.tracking import RunRecord
from vqlab.types import UserError

LABELS = np.repeat([0, 1], [40, 60])


def measured(scores: np.ndarray, threshold: float) -> dict[str, CategoryEvidence]:
    """Return evidence of image scores of `LABELS`, without maps."""
    without_baseline = np.zeros((len(LABELS), 0), np.float32)
    flagged = scores > threshold
    evidence = Evidence(
        scores, LABELS, flagged, without_baseline, without_baseline, without_baseline
    )
    itself = distributions(evidence, resample(LABELS, 0))
    metrics = {name: float(values[0]) for name, values in itself.items()}
    metrics |= rates("image", ThresholdCounts.of_images(LABELS, flagged))
    return {"part": CategoryEvidence(metrics, evidence)}


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    return LABELS * 1.5 + np.random.default_rng(0).normal(size=len(LABELS))


def gates_of(
    scores: np.ndarray, champion: np.ndarray, settings: GateSettings, promised: float = 0.05
) -> dict[str, Gate]:
    before = Contender(measured(champion, 1.6), 0.05)
    gates = paired_gates(Contender(measured(scores, 1.6), promised), before, 3, settings)
    assert all(gate.comparison for gate in gates)
    return {gate.name: gate for gate in gates}


def test_better_model_passes(scores: np.ndarray) -> None:
    gates = gates_of(scores + LABELS, scores, GateSettings())
    assert [gate.status for gate in gates.values()] == [
        "passed", "not applicable", "passed", "passed",
    ]  # fmt: skip
    auroc, escapes = gates["image_auroc"], gates["escape_rate"]
    assert auroc.value is not None and auroc.value > 0 and auroc.required == "≥ -0.0200"
    assert escapes.value is not None and escapes.value < 0 and escapes.required == "≤ +0.0200"
    assert "(version 3)" in auroc.sentence and "undefined" in gates["aupro"].sentence


def test_worse_model_is_rejected_with_the_metric(scores: np.ndarray) -> None:
    gates = gates_of(scores, scores + LABELS, GateSettings())
    assert gates["image_auroc"].status == gates["escape_rate"].status == "failed"
    assert "by more than gates.margin=0.02" in gates["image_auroc"].sentence
    assert gates["improvement"].status == "failed"
    assert "none is better" in gates["improvement"].sentence
    wide = gates_of(scores, scores + LABELS, GateSettings(margin=1))
    assert [name for name, gate in wide.items() if gate.status == "failed"] == ["improvement"]


def test_comparison_with_the_baseline(scores: np.ndarray) -> None:
    """Significantly better by the paired bootstrap passes; otherwise a warning, or the status in
    the settings."""
    run, baseline = record(), measured(scores, 1.6)

    def gate(candidate: np.ndarray, tagged: RunRecord = run, **settings: Any) -> Gate:
        evidence = measured(candidate, 1.6)
        return baseline_gate(tagged, evidence, baseline, GateSettings(**settings))

    better = gate(scores + LABELS)
    assert better.status == "passed" and better.interval is not None and better.interval.low > 0
    noisy = gate(scores + np.random.default_rng(1).normal(scale=0.1, size=len(scores)))
    assert noisy.status == "warning" and "not significantly better" in noisy.sentence
    assert noisy.interval is not None and noisy.interval.low < 0
    assert gate(scores - LABELS, baseline="refuse").status == "failed"
    assert gate(scores - LABELS, baseline="ignore").status == "passed"
    itself = replace(run, tags={**run.tags, "vqlab.detector": "mean_image"})
    assert gate(scores, itself).status == "not applicable"
    missing = baseline_gate(run, baseline, {}, GateSettings())
    assert missing.status == "not applicable" and "no evidence of the baseline" in missing.sentence


def test_loss_that_few_images_do_not_exclude(scores: np.ndarray) -> None:
    """A warning by default; a failure if non-inferiority is required."""
    other = scores + np.random.default_rng(1).normal(scale=0.8, size=len(scores))
    other += 0.3 * LABELS
    settings = GateSettings(metrics=("image_auroc",))
    assert gates_of(other, scores, settings)["image_auroc"].status == "warning"
    strict = settings.model_copy(update={"rule": "non_inferior"})
    gate = gates_of(other, scores, strict)["image_auroc"]
    assert gate.status == "failed" and "a loss above 0.02 is not excluded" in gate.sentence


def test_superiority_requires_the_complete_interval(scores: np.ndarray) -> None:
    settings = GateSettings(metrics=("image_auroc",), margin=0.2)
    slightly = scores + 0.01 * LABELS * np.random.default_rng(1).random(len(scores))
    assert gates_of(slightly, scores, settings)["improvement"].status == "passed"
    superior = settings.model_copy(update={"rule": "superior"})
    gate = gates_of(slightly, scores, superior)["improvement"]
    assert gate.status == "failed" and "none is significantly better" in gate.sentence
    assert gates_of(scores + LABELS, scores, superior)["improvement"].status == "passed"


def test_equal_scores_are_no_improvement(scores: np.ndarray) -> None:
    gates = gates_of(scores, scores, GateSettings(rule="superior"))
    assert gates["image_auroc"].status == "passed" and gates["improvement"].status == "failed"
    assert gates["improvement"].required.startswith(("> ", "< "))  # the limit itself fails


def test_escape_rates_are_compared_at_the_same_target_rate(scores: np.ndarray) -> None:
    gate = gates_of(scores, scores + LABELS, GateSettings(), promised=0.01)["escape_rate"]
    assert gate.status == "not applicable"
    assert "promise at most 0.01 and at most 0.05 false rejects" in gate.sentence


def test_worse_category_of_a_joint_model_is_a_warning(scores: np.ndarray) -> None:
    """The mean over categories is decisive."""
    before = {"a": measured(scores, 1.6)["part"], "b": measured(scores, 1.6)["part"]}
    after = {
        "a": measured(scores + 2 * LABELS, 1.6)["part"],
        "b": measured(scores - 0.3 * LABELS, 1.6)["part"],
    }
    contenders = Contender(after, 0.05), Contender(before, 0.05)
    gates = {g.name: g for g in paired_gates(*contenders, 1, GateSettings())}
    assert gates["improvement"].status == "passed"
    auroc = gates["image_auroc"]
    assert auroc.status == "warning" and "category b is worse by 0.0" in auroc.sentence


def record(metrics: dict[str, float] | None = None, **tags: str) -> RunRecord:
    tags = {key.replace("__", "."): tag for key, tag in {"vqlab__category": "part", **tags}.items()}
    return RunRecord(
        "0" * 32, "name", "part", "FINISHED", tags, {}, metrics or {}, datetime.min, None, Path
    )


def test_guarantee_of_the_threshold() -> None:
    """Of 40 images, up to 5 rejects are compatible with a target of 1 in 20 from 99 held-out
    images."""
    calibration = CalibrationScores(99, (0.0, 1.0))
    thresholds = Thresholds(1.6, 1.0, promised=0.05, calibration=calibration)
    normals = {"test/normal_images": 40.0}
    status = {}
    for rejects in (0, 5, 6, 20):
        metrics = normals | {"test/false_reject_rate": rejects / 40}
        gate = promise_gate(record(metrics), {}, thresholds, GateSettings())
        status[rejects] = gate.status
        assert f"{rejects} of 40 normal test images" in gate.sentence and gate.limit == 5 / 40
        assert gate.interval is not None and gate.interval.low <= rejects / 40
    assert status == {0: "passed", 5: "passed", 6: "failed", 20: "failed"}
    metrics = normals | {"test/false_reject_rate": 0.5}
    for consequence, result in (("warn", "warning"), ("ignore", "passed")):
        settings = gate_settings([f"gates.promise={consequence}"])
        assert promise_gate(record(metrics), {}, thresholds, settings).status == result
    evidence = measured(LABELS * 1.0, 0.5)  # evidence takes precedence over metrics
    assert promise_gate(record(metrics), evidence, thresholds, GateSettings()).value == 0.0
    without = replace(thresholds, promised=None, method="f1max")
    assert promise_gate(record(metrics), {}, without, GateSettings()).status == "not applicable"
    assert promise_gate(record(), {}, thresholds, GateSettings()).status == "not applicable"


def test_dead_codebook_is_rejected() -> None:
    alive = {"codebook/perplexity": 100.0, "codebook/dead_codes": 50.0, "codebook/usage": 0.9}
    dead = alive | {"codebook/perplexity": 2.0}
    assert codebook_gate(record(alive), GateSettings()).status == "passed"
    gate = codebook_gate(record(dead), GateSettings())
    assert gate.status == "failed" and gate.value == 2.0 and "perplexity 2.0" in gate.sentence
    assert codebook_gate(record(dead), GateSettings(codebook="warn")).status == "warning"
    assert codebook_gate(record(), GateSettings()).status == "not applicable"


def test_uncommitted_code_is_a_warning() -> None:
    commit = {"mlflow__source__git__commit": "c" * 40}
    clean, changed = record(**commit), record(**commit, vqlab__git_dirty="true")
    assert code_gate(clean, GateSettings()).status == "passed"
    assert code_gate(changed, GateSettings()).status == "warning"
    assert code_gate(changed, GateSettings(code="refuse")).status == "failed"
    assert code_gate(record(), GateSettings()).status == "not applicable"


def test_limits_of_latency_and_memory() -> None:
    exact = Reproduction(4, True, seconds=0.2, memory=500 * 2**20)
    assert [g.status for g in process_gates(exact, GateSettings())] == [
        "passed", "not applicable", "not applicable",
    ]  # fmt: skip
    limits = gate_settings(["gates.max_latency_ms=250", "gates.max_memory_mib=100"])
    gates = process_gates(replace(exact, exact=False, difference=1e-6), limits)
    assert [g.status for g in gates] == ["warning", "passed", "failed"]
    assert gates[2].measured == "500 MiB" and gates[2].required == "≤ 100 MiB"
    assert failed(gates, forced=True) == [gates[2]]
    assert summary(gates) == "1 passed, 1 failed (memory), 1 warning (reproduction)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("gates.marjin=1", "did you mean gates.margin"),
        ("training.epochs=3", "setting training does not exist; choose one of gates.metrics"),
        ("gates.metrics=[image_aurok]", "must be among image_auroc"),
        ("gates.rule=equal", "gates.rule"),
        ("gates=3", "gates must be a section"),
    ],
)
def test_invalid_settings(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gate_settings([override])


def test_options_override_settings() -> None:
    settings = gate_settings(["gates.margin=0.1"], metric="test/aupro", min_delta=0.01)
    assert (settings.margin, settings.metric, settings.min_delta) == (0.1, "test/aupro", 0.01)
    assert gate_settings() == GateSettings()


@pytest.mark.parametrize(
    ("rejects", "trained", "settings", "status"),
    [
        (4, (), {}, "passed"),
        (12, (), {}, "warning"),
        (12, ("noise",), {}, "warning"),
        (12, ("jpeg",), {}, "failed"),
        (12, ("jpeg",), {"shifts": "warn"}, "warning"),
        (12, ("jpeg",), {"shifts": "ignore"}, "passed"),
    ],
)
def test_errors_under_required_shifts(
    rejects: int, trained: tuple[str, ...], settings: dict[str, Any], status: str
) -> None:
    rows = (
        ShiftErrors("", AS_CAPTURED, 0, 1, 2),
        ShiftErrors("jpeg", "strong", 50, rejects, 3),
    )
    table = ShiftTable(40, 40, trained, rows)
    calibration = CalibrationScores.of(np.arange(100.0))
    thresholds = Thresholds(94, 1, promised=0.05, calibration=calibration)
    gate = shift_gate(table, thresholds, GateSettings(**settings))
    assert gate.status == status
    assert f"{rejects} of 40" in gate.sentence and "jpeg 50 (strong)" in gate.sentence
    assert ("data.shifts" in gate.sentence) == (rejects == 12)
    assert shift_gate(None, thresholds, GateSettings()).status == "not applicable"


def test_failed_gate_is_based_on_the_shifts_of_the_training() -> None:
    """Stronger shifts, which the model was not trained to tolerate, are ignored."""
    rows = (ShiftErrors("gain", "strong", 0.2, 30, 0), ShiftErrors("jpeg", "strong", 50, 12, 0))
    calibration = CalibrationScores.of(np.arange(100.0))
    thresholds = Thresholds(94, 1, promised=0.05, calibration=calibration)
    gate = shift_gate(ShiftTable(40, 40, ("jpeg",), rows), thresholds, GateSettings())
    assert gate.status == "failed" and gate.value == 12 / 40
    assert "12 of 40" in gate.sentence and "gain" not in gate.sentence
    warned = shift_gate(ShiftTable(40, 40, ("noise",), rows), thresholds, GateSettings())
    assert warned.status == "warning" and warned.value == 30 / 40
