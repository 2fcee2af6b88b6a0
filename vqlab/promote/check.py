"""Run the gates of a promotion that need no fresh process."""

from __future__ import annotations

from pathlib import Path

from vqlab.checkpoint import load_checkpoint
from vqlab.errors import UserError
from vqlab.evaluation import (
    BASELINE_EVIDENCE,
    MEAN,
    CategoryEvidence,
    Thresholds,
    paired_differences,
)
from vqlab.metrics import Difference
from vqlab.promote.candidate import shift_table
from vqlab.promote.comparison import (
    MetricComparison,
    champion_evidence,
    champion_run,
    run_evidence,
    same_images,
    why_not_comparable,
)
from vqlab.promote.gates.champion import Contender, paired_gates, value_gate
from vqlab.promote.gates.gate import Gate
from vqlab.promote.gates.model import (
    baseline_gate,
    code_gate,
    codebook_gate,
    promise_gate,
    selection_gate,
    shift_gate,
)
from vqlab.promote.gates.settings import GateSettings
from vqlab.run import THRESHOLD_OF
from vqlab.tracking import RunRecord, Tracker, Version

Evidence = dict[str, CategoryEvidence]


def comparison_gates(
    tracker: Tracker,
    champion: Version | None,
    record: RunRecord,
    comparison: MetricComparison,
    settings: GateSettings,
    without_test: bool,
) -> list[Gate]:
    """Return the gates that compare a run with the champion.

    By the paired bootstrap if both have evidence on the same test images, otherwise by the values
    of one metric.
    """
    metric = comparison.metric
    if champion is None:
        return [value_gate(comparison, None, None)]
    if _same_model(tracker, champion, record):
        text = f"The same trained model as version {champion.version}: its scores are unchanged."
        return [Gate("comparison", "passed", text, comparison=True)]
    if comparison.champion_value is None:
        reason = why_not_comparable(tracker, champion, record, metric, without_test)
        return [Gate("comparison", "failed", reason, comparison=True)]
    before, after = champion_evidence(tracker, champion, record), run_evidence(record)
    paired = not without_test and same_images(before, after)
    if paired and settings.metric is None:
        contenders = (
            Contender(after, thresholds_of(record).promised),
            Contender(before, _promised(tracker, champion)),
        )
        gates = paired_gates(*contenders, champion.version, settings)
        if gates:
            return gates
    difference = _difference(before, after, metric, settings) if paired else None
    return [value_gate(comparison, champion.version, difference)]


def _same_model(tracker: Tracker, champion: Version, record: RunRecord) -> bool:
    """Return whether both have the same trained model, perhaps with other thresholds."""
    other = champion_run(tracker, champion)
    trained = other.tags.get(THRESHOLD_OF, other.run_id) if other else champion.run_id
    return trained == record.tags.get(THRESHOLD_OF, record.run_id)


def _difference(
    before: Evidence, after: Evidence, metric: str, settings: GateSettings
) -> Difference | None:
    paired = paired_differences(before, after, settings.resamples, settings.seed)
    group = MEAN if len(before) > 1 else next(iter(before))
    return paired.differences[group].get(metric.partition("/")[2])


def _promised(tracker: Tracker, champion: Version) -> float | None:
    try:
        return _thresholds(tracker.registry.checkpoint(champion)).promised
    except UserError:  # the checkpoint was deleted
        return None


def thresholds_of(record: RunRecord) -> Thresholds:
    """Return the thresholds in the checkpoint of a run."""
    return _thresholds(record.checkpoint())


def _thresholds(checkpoint: Path) -> Thresholds:
    _, meta = load_checkpoint(checkpoint)
    return Thresholds.from_json(meta["thresholds"])


def model_gates(record: RunRecord, settings: GateSettings) -> list[Gate]:
    """Return the gates on the model itself."""
    evidence, thresholds = run_evidence(record), thresholds_of(record)
    return [
        promise_gate(record, evidence, thresholds, settings),
        shift_gate(shift_table(record), thresholds, settings),
        baseline_gate(record, evidence, run_evidence(record, BASELINE_EVIDENCE), settings),
        codebook_gate(record, settings),
        selection_gate(record),
        code_gate(record, settings),
    ]
