"""Promotion: a checkpoint becomes its category's champion if it passes every gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vqlab.promote.acceptance.page import acceptance_page, require_space, write_page
from vqlab.promote.candidate import find_candidate, with_shift_table, with_test_metrics
from vqlab.promote.champion import measured_values
from vqlab.promote.check import comparison_gates, model_gates
from vqlab.promote.comparison import (
    FIRST,
    WITHOUT_TEST,
    MetricComparison,
    champion_values,
    default_metric,
    require_metric,
    require_test,
    value_of,
)
from vqlab.promote.gates.gate import Gate, failed
from vqlab.promote.gates.process import process_gates
from vqlab.promote.gates.settings import GateSettings
from vqlab.promote.provenance import Decision, log_promotion
from vqlab.promote.reproduce import reproduce
from vqlab.run import THRESHOLD_OF
from vqlab.text import category_text
from vqlab.tracking import CHECKPOINT, RunRecord, Tracker, Version


@dataclass(frozen=True)
class Promotion:
    """The result of a promotion."""

    version: int | None
    """The registered version; None if none was registered."""
    promoted: bool
    """Whether the champion changed."""
    is_champion: bool
    """Whether the run is the champion now."""
    reason: str
    """One sentence."""
    run_id: str
    value: float | None
    champion_value: float | None
    """The earlier champion's value on the same data; None if there is none."""
    gates: tuple[Gate, ...] = ()
    """Results of the gates. Those of a fresh process follow only if all others passed."""
    report: Path | None = None
    """The acceptance report, if it was written to a file."""


def promote(
    tracker: Tracker,
    category: str,
    *,
    ref: str | None = None,
    gates: GateSettings | None = None,
    force: bool = False,
    without_test: bool = False,
    data: Path | None = None,
    output: Path | None = None,
) -> Promotion:
    """Make a run's checkpoint the champion of `category` if it passes every gate.

    ref: run ID, unique ID prefix or name; default: the best run of the latest study. gates: the
    requirements; default: `GateSettings()`. The model is compared with the champion on the same
    test images (fingerprint, and images taken by validation) by a paired bootstrap, or by the
    values of one metric if a run has no evidence: the first of image AUROC, pixel AUROC and AUPRO
    that both have. A champion that was never tested on these images is evaluated on them first. Its
    values are kept with its version, so its run may be deleted.
    force: override the comparison, not the other gates. without_test: accept a run whose data have
    no test images, and compare a `validation/…` metric, measured on synthetic anomalies. data: the
    folder of the images if they were moved. output: a folder for the acceptance report, which is
    also logged to the run of a promoted model.

    A refusal is returned, not raised. Raises UserError if nothing can be compared, a fresh process
    cannot score images, or the report cannot be written. If a promotion fails or is killed after
    its version was registered, the champion is unchanged, and the same call promotes this version.
    """
    settings = gates or GateSettings()
    if settings.metric is not None:
        require_metric(settings.metric, without_test)
    with tracker.registry.lock():  # of two promotions, the second compares with the first
        record = find_candidate(tracker, category, ref, settings.metric or FIRST[0])
        champion = tracker.registry.by_alias(record.categories)
        if champion is not None and champion.run_id == record.run_id:
            value, number = record.metrics.get(settings.metric or FIRST[0]), champion.version
            reason = f"{record.name} is already the champion of {category} (version {number})."
            return Promotion(number, False, True, reason, record.run_id, value, None)
        require_test(record, without_test)
        if output is not None:
            require_space(output)  # before a version is registered
        if not without_test:
            record = with_test_metrics(tracker, record, data, output or Path("results"))
            record = with_shift_table(tracker, record, data, settings.shift_images)
        if champion is None:
            values = {}
        elif without_test or force:
            values = champion_values(tracker, champion, record)
        else:
            values = measured_values(tracker, champion, record, data)
        decision = _decide(
            tracker, record, champion, values, _Request(settings, force, without_test, data)
        )
        page = acceptance_page(decision, values)
        file = write_page(page, decision, output) if output else None
        if decision.version is not None:
            log_promotion(tracker, decision, decision.version, page)
            tracker.registry.set_champion(decision.version, champion)
    return _promotion(decision, file)


@dataclass(frozen=True)
class _Request:
    """Arguments of `promote`."""

    settings: GateSettings
    force: bool
    without_test: bool
    data: Path | None


def _decide(
    tracker: Tracker,
    record: RunRecord,
    champion: Version | None,
    values: Mapping[str, float],
    request: _Request,
) -> Decision:
    """Run the gates; register the version unless one failed. values: metrics of the champion."""
    settings, without_test, force = request.settings, request.without_test, request.force
    comparison = _comparison(values, record, settings, without_test)
    gates = [
        *comparison_gates(tracker, champion, record, comparison, settings, without_test),
        *model_gates(record, settings),
    ]
    reproduced = ""
    if not failed(gates, force):
        measured = reproduce(record, request.data)
        gates, reproduced = [*gates, *process_gates(measured, settings)], str(measured)
    refusals = failed(gates, force)
    if refusals:
        reason = f"{record.name} was not promoted: {_sentences(refusals)}"
        return Decision(record, champion, comparison, reason, tuple(gates), settings)
    category = category_text(record.categories)
    reason = _reason(category, champion, comparison, forced=bool(failed(gates)))
    if THRESHOLD_OF in record.tags:
        reason = f"{reason.removesuffix('.')}; only its thresholds changed."
    if without_test:
        reason = f"{reason.removesuffix('.')}; no real test image was used."
    return Decision(
        record, champion, comparison, reason, tuple(gates), settings,
        _registered(tracker, record), reproduced,
    )  # fmt: skip


def _promotion(decision: Decision, report: Path | None) -> Promotion:
    version, comparison = decision.version, decision.comparison
    promoted = version is not None
    return Promotion(
        version.version if version else None, promoted, promoted, decision.reason,
        decision.record.run_id, comparison.value, comparison.champion_value, decision.gates, report,
    )  # fmt: skip


def _comparison(
    values: Mapping[str, float], record: RunRecord, settings: GateSettings, without_test: bool
) -> MetricComparison:
    """Return the values of `gates.metric` or, by default, of the first metric that both have.

    values: metrics of the champion.
    """
    default = WITHOUT_TEST if without_test else ""
    metric = settings.metric or default or default_metric(record, values)
    value = value_of(record, metric)
    return MetricComparison(metric, value, values.get(metric), settings.min_delta)


def _sentences(gates: list[Gate]) -> str:
    """Name the failed gates, e.g. `gate promise: 9 of 20 …`."""
    return " ".join(f"gate {g.name}: {g.sentence.removesuffix('.')}." for g in gates)


def _reason(
    category: str, champion: Version | None, comparison: MetricComparison, forced: bool
) -> str:
    """Return the sentence on a new champion."""
    replaced = ", the first champion"
    if champion is not None:
        old = comparison.champion_value
        value = "not measured on these data" if old is None else f"{old:.4f}"
        replaced = f", replaces version {champion.version} ({value})"
    by_force = " by force" if forced else ""
    metric = f"{comparison.metric} {comparison.value:.4f}"
    return f"champion of {category}{by_force}: {metric}{replaced}."


def _registered(tracker: Tracker, record: RunRecord) -> Version:
    """Return the run's registered version; register one if there is none."""
    version = tracker.registry.registered(record.run_id, record.categories)
    return version or tracker.registry.register(record.run_id, CHECKPOINT, record.categories)
