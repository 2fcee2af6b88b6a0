"""Evaluators: functions that add notes, metrics and reports to a test evaluation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vqlab.config import Tree, dump
from vqlab.data import ImageSet, Splits, audit, audit_metrics
from vqlab.evaluation import (
    REJECT,
    REVIEW,
    Predictions,
    Report,
    Scored,
    choose_thresholds,
    evaluate,
    guarantee_note,
    with_records,
)
from vqlab.model import Model
from vqlab.run.calibration import calibrate_and_assess, make_trainer
from vqlab.run.concepts import concept_metrics
from vqlab.run.settings import RunConfig, resolve
from vqlab.run.shifts import log_shifts, measure_shifts
from vqlab.tracking import Run
from vqlab.training import choose_device

AUDIT = "vqlab.audit"
"""Tag of a tested run: the data audit's warnings, each beginning with its category."""
WARNED = "vqlab.audit_categories"
"""Tag of a tested run: the categories with a warning, as JSON; runs of vqlab 0.1 lack it."""
AUDIT_FILE = "data/audit.json"
"""Artifact of a tested run: the audit's statistics by `audit/<statistic>`."""
BASELINE: Tree = {"name": "mean_image"}


@dataclass(frozen=True)
class EvaluatorInput:
    """Input of an evaluator: a model and its predictions on the test set."""

    model: Model
    config: RunConfig
    splits: Splits
    predictions: Predictions
    validation: Predictions | None
    """Predictions of the validation images, or at least of the held-out ones, which come first;
    with alternative scores."""
    tracked: Run

    @property
    def scored(self) -> Scored:
        return self.predictions.scored


@dataclass(frozen=True)
class Findings:
    """Output of an evaluator, for the report and the tracked run."""

    notes: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    """Categories with a data-audit warning."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By key, such as `test/concept_live`."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """Reports of other scores on the same images, by name."""


Evaluator = Callable[[EvaluatorInput], Findings]


def audited_data(test: EvaluatorInput) -> Findings:
    """Audit the data; log its statistics (as an artifact, to keep the UI's charts clear) and
    warnings."""
    audits = audit(test.splits)
    warnings = tuple(sentence for each in audits.values() for sentence in each.warnings)
    warned = tuple(category for category, each in audits.items() if each.suspicious)
    test.tracked.log_json(audit_metrics(audits), AUDIT_FILE)
    if warnings:
        tags = {AUDIT: " ".join(warnings), WARNED: json.dumps(list(warned))}
        test.tracked.set_tags(tags)
    return Findings(warnings, warned)


def guarantee(test: EvaluatorInput) -> Findings:
    """Check the guaranteed false-reject rate of the thresholds."""
    thresholds, labels = test.model.thresholds, test.scored.labels
    normal = test.scored.image_scores[labels == 0].tolist()
    verdicts = Counter(map(thresholds.verdict, normal))
    note = guarantee_note(thresholds, verdicts[REJECT], len(normal), verdicts[REVIEW])
    return Findings((note,) if note else ())


def alternatives(test: EvaluatorInput) -> Findings:
    """Evaluate the detector's other scores, each with its own thresholds."""
    config, images = test.config, test.splits.test
    if test.validation is None:
        return Findings()
    count = len(images_for_thresholds(config, test.splits))
    reports = {}
    for name, scored in test.predictions.alternatives.items():
        validation = test.validation.alternatives[name].take(range(count))
        thresholds = choose_thresholds(validation, config.threshold)
        reports[name] = evaluate(scored, thresholds, config.evaluation, images)
    return Findings(reports=reports)


def images_for_thresholds(config: RunConfig, splits: Splits) -> ImageSet:
    """Return the images that thresholds are chosen on: the first images of `splits.validation`."""
    return splits.validation if config.threshold.method == "f1max" else splits.held_out


def baseline(test: EvaluatorInput) -> Findings:
    """Evaluate the no-learning baseline `mean_image`."""
    splits, settings = test.splits, test.config.evaluation
    training = {"epochs": 0, "device": test.config.training.device}
    sections = {"data": dump(test.config.data), "threshold": dump(test.config.threshold)}
    config = resolve({"detector": BASELINE, "training": training, **sections})
    trainer = make_trainer(config, splits, choose_device(config.training))
    trainer.fit(lambda epoch, metrics: None)
    model, _ = calibrate_and_assess(config, trainer, splits, "")
    scored = model.score_set(splits.test, batch_size=settings.batch_size)
    report = evaluate(scored, model.thresholds, settings, splits.test)
    return Findings(reports={str(BASELINE["name"]): report})


def concepts(test: EvaluatorInput) -> Findings:
    """Measure how the detector's prototypes agree with the categories."""
    concepts = with_records(test.predictions.prototypes, test.scored.records)
    return Findings(metrics=concept_metrics(concepts, test.config.test_split))


def capture_shifts(test: EvaluatorInput) -> Findings:
    """Measure errors under capture shifts (`evaluation.shifts`)."""
    most = test.config.evaluation.shifts
    if most == 0:
        return Findings()
    table = measure_shifts(test.model, test.splits.test, most)
    log_shifts(table, test.model.thresholds.promised, test.tracked)
    failed = table.above_promise(test.model.thresholds)
    if not failed:
        return Findings()
    counts = ", ".join(f"{row.title}: {row.false_rejects}" for row in failed)
    return Findings(
        (
            f"capture shifts make the model reject more of {table.normals} normal test images than "
            f"it promises: {counts}; list the shifts to tolerate in data.shifts.",
        )
    )


EVALUATORS: tuple[Evaluator, ...] = (audited_data, guarantee, alternatives, baseline, concepts,
    capture_shifts,
)  # fmt: skip
"""Test evaluation runs them in this order; add new ones here."""
