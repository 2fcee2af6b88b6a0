"""What test evaluation adds to a report: a list of evaluators, each given the scored test set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vqlab.config import Tree, dump
from vqlab.data import Splits, audit, audit_metrics
from vqlab.detectors import HasAlternatives, extract
from vqlab.evaluation import Report, Scored, choose_thresholds, evaluate, guarantee_note
from vqlab.model import Model
from vqlab.run.calibration import judge, make_trainer
from vqlab.run.concepts import concept_metrics
from vqlab.run.settings import RunConfig, resolve
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
class ScoredTest:
    """A model and its scores on the test set: what an evaluator is given."""

    model: Model
    config: RunConfig
    splits: Splits
    scored: Scored
    tracked: Run


@dataclass(frozen=True)
class Findings:
    """What an evaluator adds to the report and to the tracked run."""

    notes: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    """Categories with a data-audit warning."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """By key, such as `test/concept_live`."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """Reports of other scores on the same images, by name."""


Evaluator = Callable[[ScoredTest], Findings]


def audited_data(test: ScoredTest) -> Findings:
    """Audit the data and record its statistics and warnings.

    The statistics are an artifact: as metrics they would come first among the UI's charts.
    """
    audits = audit(test.splits)
    warnings = tuple(sentence for each in audits.values() for sentence in each.warnings)
    warned = tuple(category for category, each in audits.items() if each.suspicious)
    test.tracked.log_json(audit_metrics(audits), AUDIT_FILE)
    if warnings:
        tags = {AUDIT: " ".join(warnings), WARNED: json.dumps(list(warned))}
        test.tracked.set_tags(tags)
    return Findings(warnings, warned)


def guarantee(test: ScoredTest) -> Findings:
    """Check the false-reject rate that the thresholds guarantee."""
    thresholds, labels = test.model.thresholds, test.scored.labels
    rejects = int(((labels == 0) & (test.scored.image_scores > thresholds.image)).sum())
    note = guarantee_note(thresholds, rejects, int((labels == 0).sum()))
    return Findings((note,) if note else ())


def alternatives(test: ScoredTest) -> Findings:
    """Evaluate the detector's other scores, each at thresholds of its own."""
    model, config, images = test.model, test.config, test.splits.test
    detector = model.detector
    if not isinstance(detector, HasAlternatives):
        return Findings()
    f1max = config.threshold.method == "f1max"
    judges = test.splits.validation if f1max else test.splits.held_out
    first = model.backbone(images.batch([0]).images.to(model.device))
    reports = {}
    for name in detector.alternatives(extract(detector, first)):
        thresholds = choose_thresholds(model.score_set(judges, by=name), config.threshold)
        scored = model.score_set(images, by=name)
        reports[name] = evaluate(scored, thresholds, config.evaluation, images)
    return Findings(reports=reports)


def baseline(test: ScoredTest) -> Findings:
    """Evaluate the no-learning baseline `mean_image`."""
    config, splits = test.config, test.splits
    training = {"epochs": 0, "device": config.training.device}
    sections = {"data": dump(config.data), "threshold": dump(config.threshold)}
    own = resolve({"detector": BASELINE, "training": training, **sections})
    trainer = make_trainer(own, splits, choose_device(own.training))
    trainer.fit(lambda epoch, metrics: None)
    model, _ = judge(own, trainer, splits, "")
    scored = model.score_set(splits.test)
    report = evaluate(scored, model.thresholds, config.evaluation, splits.test)
    return Findings(reports={str(BASELINE["name"]): report})


def concepts(test: ScoredTest) -> Findings:
    """Measure how the detector's prototypes agree with the categories."""
    split = test.config.test_split
    return Findings(metrics=concept_metrics(test.model, test.splits.test, split))


EVALUATORS: tuple[Evaluator, ...] = (audited_data, guarantee, alternatives, baseline, concepts)
"""Run in this order by test evaluation; add one here."""
