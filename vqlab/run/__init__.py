"""A run: data → detector → training → thresholds → report. START READING in `story.py`."""

from vqlab.run.judging import judge, make_trainer, unseen_in_fitting
from vqlab.run.settings import BEST_ON_TEST, RunConfig, each_model, resolve, trained_key
from vqlab.run.story import (
    CHECKPOINT,
    STATE,
    OnEpoch,
    Outcome,
    evaluate_model,
    experiment_of,
    run,
    start,
)
from vqlab.run.testing import OnProgress, test_model, warned_of

__all__ = [
    "BEST_ON_TEST",
    "CHECKPOINT",
    "STATE",
    "OnEpoch",
    "OnProgress",
    "Outcome",
    "RunConfig",
    "each_model",
    "evaluate_model",
    "experiment_of",
    "judge",
    "make_trainer",
    "resolve",
    "run",
    "start",
    "test_model",
    "trained_key",
    "unseen_in_fitting",
    "warned_of",
]
