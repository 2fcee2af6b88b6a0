"""Attributes of a trial, including those of older studies."""

from __future__ import annotations

import optuna

from vqlab.sweep.study.record import record_of, stored

METRICS = {"validation/image_auroc": 0.9, "validation/cable/aupro": 0.8}
SCORING = {"detector.scoring.terms": ["error", "context"]}


def test_mappings_are_stored_as_one_attribute_per_key() -> None:
    attrs = stored(validation=METRICS, scoring=SCORING, reused="run 1", run_id="2")
    assert attrs == {
        **METRICS,
        "scoring/detector.scoring.terms": ["error", "context"],
        "reused": "run 1",
        "mlflow_run_id": "2",
    }
    record = record_of(optuna.create_trial(value=0.0, user_attrs=attrs))
    assert (record.validation, record.scoring, record.thresholds) == (METRICS, SCORING, {})
    assert (record.reused, record.run_id) == ("run 1", "2")


def test_records_of_older_studies_are_read() -> None:
    attrs = {"validation": METRICS, "scoring": SCORING, "mlflow_run_id": "2"}
    record = record_of(optuna.create_trial(value=0.0, user_attrs=attrs))
    assert (record.validation, record.scoring, record.run_id) == (METRICS, SCORING, "2")
