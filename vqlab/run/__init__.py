"""A run: data → detector → training → thresholds → report. START READING in `story.py`."""

from vqlab.run.calibration import (
    assess,
    assess_scored,
    calibrate,
    calibrate_and_assess,
    calibrated_model,
    make_trainer,
    scores_of_shifted,
    unseen_in_fitting,
)
from vqlab.run.fit import STATE, OnEpoch
from vqlab.run.limits import limit_settings
from vqlab.run.names import run_name, short_names
from vqlab.run.pages import PICTURES, TEST_METRICS, show_experiment
from vqlab.run.ranks import train_on_rank
from vqlab.run.saved import CHECKPOINT
from vqlab.run.settings import (
    REUSED_TAG,
    SAVED_TAG,
    THRESHOLD_OF,
    TRAINED_TAG,
    TRAINING_TAG,
    RunConfig,
    model_configs,
    resolve,
    reused_tags,
    trained_key,
)
from vqlab.run.shifts import SHIFT_CHART, SHIFT_TABLE, log_shifts, measure_shifts
from vqlab.run.story import (
    LOSS,
    TRAINING_CPU,
    Outcome,
    Recording,
    evaluate_model,
    experiment_of,
    log_data,
    run,
    start,
)
from vqlab.run.test_set import (
    OnProgress,
    audit_warned,
    example_pictures,
    log_evidence,
    require_test,
    score_rows,
    test_model,
    test_picture,
)

__all__ = [
    "THRESHOLD_OF",
    "CHECKPOINT",
    "LOSS",
    "PICTURES",
    "REUSED_TAG",
    "SAVED_TAG",
    "STATE",
    "TEST_METRICS",
    "TRAINED_TAG",
    "TRAINING_CPU",
    "TRAINING_TAG",
    "OnEpoch",
    "OnProgress",
    "Outcome",
    "Recording",
    "RunConfig",
    "assess",
    "assess_scored",
    "calibrate",
    "calibrated_model",
    "example_pictures",
    "model_configs",
    "evaluate_model",
    "experiment_of",
    "limit_settings",
    "calibrate_and_assess",
    "log_data",
    "log_evidence",
    "make_trainer",
    "require_test",
    "resolve",
    "score_rows",
    "scores_of_shifted",
    "SHIFT_CHART",
    "SHIFT_TABLE",
    "log_shifts",
    "measure_shifts",
    "reused_tags",
    "run",
    "run_name",
    "short_names",
    "show_experiment",
    "start",
    "test_model",
    "test_picture",
    "train_on_rank",
    "trained_key",
    "unseen_in_fitting",
    "audit_warned",
]
