"""Reuse the training of another run: a cell that differs in scoring, thresholds or evaluation only
is calibrated and tested, not trained."""

from __future__ import annotations

from collections.abc import Mapping

from vqlab.benchmark.plan import Cell
from vqlab.checkpoint import save_state
from vqlab.data import Splits
from vqlab.run import (
    STATE,
    TRAINED_TAG,
    TRAINING_CPU,
    TRAINING_TAG,
    limit_settings,
    make_trainer,
    reused_tags,
    start,
    trained_key,
)
from vqlab.sweep.trial.reuse import EarlierRuns
from vqlab.tracking import Run, Tracker
from vqlab.training import choose_device
from vqlab.version import __version__


def start_trained(
    cell: Cell, splits: Splits, tracker: Tracker, tags: Mapping[str, str]
) -> tuple[Run, dict[str, str]] | None:
    """Start the run of a cell with the training of an earlier run as its saved state, so that
    `run(…, Recording(resumed=…))` continues after the last epoch; return it and its `reused_tags`.

    None if no run of this version has the same training and a checkpoint.
    """
    config = cell.config
    key = trained_key(config, splits.fingerprint)
    earlier = EarlierRuns(tracker, splits.fingerprint).model([], key, config)
    if earlier is None or earlier[1].tags.get("vqlab.version") != __version__:
        return None
    model, record = earlier
    assert record.tags[TRAINED_TAG] == key
    seconds = float(record.tags.get(TRAINING_TAG, record.duration or 0.0))
    tracked = start(tracker, config, splits, cell.title, tags)
    if TRAINING_CPU in record.metrics:
        tracked.log_metrics({TRAINING_CPU: record.metrics[TRAINING_CPU]})
    limited, _ = limit_settings(config, splits)
    trainer = make_trainer(limited, splits, choose_device(config.training))
    weights = model.detector.state_dict()
    trainer.detector.load_state_dict(weights)
    epochs = tracker.history(record.run_id, ("train/", "codebook/"))[: config.training.epochs]
    trainer.history = epochs + [{}] * (max(1, config.training.epochs) - len(epochs))
    state = trainer.state()
    state["average"] = {name: weights[name] for name in state["average"]}
    tracked.folder.mkdir(parents=True, exist_ok=True)
    save_state(tracked.folder / STATE, state)
    return tracked, reused_tags(f"run {record.run_id}", seconds)
