"""Measure every setting of a grid on validation and on test, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np

from vqlab.config import digest, dump, flatten
from vqlab.correlate.grid import Training
from vqlab.correlate.rank_correlation import METRICS
from vqlab.correlate.reliability import HALVES, measure_halves
from vqlab.correlate.table import Row, Table
from vqlab.data import AREA_FILES, SYNTHETIC_PREFIX, Splits, load_dataset
from vqlab.evaluation import Report, Scored, evaluate
from vqlab.model import build_detector
from vqlab.run import RunConfig, assess_scored, calibrated_model, make_trainer, require_test
from vqlab.training import Trainer, choose_device

OnProgress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""
_IRRELEVANT = (
    "training.device", "training.threads", "data.root", "data.good", "data.bad", "data.memory_mib",
)  # fmt: skip
"""Settings that do not change the measurements."""


def measure_all(
    category: str, trainings: Sequence[Training], table: Table, on_progress: OnProgress
) -> tuple[list[Row], Splits]:
    """Return the rows of all settings in order; measured ones are reused from `table`."""
    rows: list[Row] = []
    total = sum(len(training.settings) for training in trainings)
    splits, validation, loaded = None, "", ""
    for training in trainings:
        if splits is None or digest(dump(training.config.data)) != loaded:
            splits = load_dataset(training.config.data)
            require_test(splits, "to compare validation with")
            validation, loaded = validation_digest(splits), digest(dump(training.config.data))
        trainer: Trainer | None = None
        for values, config in training.settings:
            key = setting_key(config, splits, validation)
            if key not in table.rows:
                trainer = trainer or _train(training.config, splits, category, on_progress)
                row: Row = {"key": key, "detector": training.detector}
                row |= {"settings": json.dumps(values), **measure(trainer, config, splits)}
                table.add(row)
            rows.append(table.rows[key])
            on_progress(f"{category}: settings", len(rows), total)
    assert splits is not None
    return rows, splits


def validation_digest(splits: Splits) -> str:
    """Return the sha256 (hex) of the validation images and masks; it changes with the code that
    draws synthetic anomalies."""
    sha = hashlib.sha256()
    for index in range(len(splits.validation)):
        resized = splits.validation.resized(index)
        sha.update(resized.image.tobytes() + np.packbits(resized.mask).tobytes())
    return sha.hexdigest()


def setting_key(config: RunConfig, splits: Splits, validation: str) -> str:
    """Return 16 hex digits that identify the settings and the images."""
    relevant = {k: v for k, v in flatten(dump(config)).items() if not _ignored(k, v)}
    return digest([relevant, splits.fingerprint, validation])[:16]


def _ignored(name: str, value: object) -> bool:
    """Return whether a setting does not change the measurements, or is unset and recent."""
    recent = name in ("threshold.review_rate", "data.mm_per_pixel") and value is None
    return recent or name in _IRRELEVANT or name.startswith(AREA_FILES)


def _train(config: RunConfig, splits: Splits, category: str, on_progress: OnProgress) -> Trainer:
    trainer = make_trainer(config, splits, choose_device(config.training))
    epochs = config.training.epochs

    def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        on_progress(f"{category}: epochs", epoch, epochs)

    trainer.fit(on_epoch)
    return trainer


def measure(trainer: Trainer, config: RunConfig, splits: Splits) -> Row:
    """Return metrics of a trained detector with the scoring of `config`: on validation, on each
    kind of synthetic anomaly with all normal images (`validation_<kind>/…`), on test, and on halves
    of both sets. The trainer is not modified."""
    detector = build_detector(config.detector, trainer.backbone.spec)
    detector.load_state_dict(trainer.detector.state_dict())
    copied = copy(trainer)
    copied.detector = detector.to(trainer.device)
    model = calibrated_model(config, copied, splits, "")
    scored = model.score_set(splits.validation)
    model, report = assess_scored(model, config, splits, scored)
    row = _metrics("validation", report)
    for kind, indices in by_kind(scored).items():
        row |= _metrics(f"validation_{kind}", evaluate(scored.take(indices), model.thresholds))
    tested = model.score_set(splits.test)
    report_on_test = evaluate(tested, model.thresholds, keep_evidence=True)
    row |= _metrics("test", report_on_test)
    halves = {"validation": _halves(report, scored), "test": _halves(report_on_test, tested)}
    return row | {HALVES: json.dumps(halves)}


def by_kind(scored: Scored) -> dict[str, list[int]]:
    """Return the indices of all normal images and the synthetic anomalies of each kind."""
    normal = [i for i, record in enumerate(scored.records) if not record.label]
    kinds: dict[str, list[int]] = {}
    for index, record in enumerate(scored.records):
        if record.defect.startswith(SYNTHETIC_PREFIX):
            kind = record.defect.removeprefix(SYNTHETIC_PREFIX)
            kinds.setdefault(kind, list(normal)).append(index)
    return dict(sorted(kinds.items()))


def _metrics(split: str, report: Report) -> Row:
    return {f"{split}/{name}": report.mean[name] for name in METRICS if name in report.mean}


def _halves(report: Report, scored: Scored) -> list[list[float]]:
    (evidence,) = report.evidence.values()
    return measure_halves(evidence, [record.defect for record in scored.records])
