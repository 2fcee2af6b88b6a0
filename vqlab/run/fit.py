"""Train the detector of a run: resume, save the state, validate epochs, log metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import copy

from vqlab.checkpoint import load_state, save_state
from vqlab.data import Splits
from vqlab.evaluation import evaluate
from vqlab.run.calibration import calibrate_and_assess
from vqlab.run.saved import CHECKPOINT
from vqlab.run.settings import BEST_ON_TEST, TRAINING_TAG, RunConfig
from vqlab.tracking import Run
from vqlab.training import Diverged, Trainer
from vqlab.types import UserError

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with (epoch, epochs, metrics); may raise to end the run."""
STATE = "state.safetensors"
STATE_SECONDS = 1.0
"""Minimum time between two writes of the training state: shorter epochs are cheaper to repeat."""
SELECTION_METRICS = {
    "best_on_validation": "best_on_validation/pixel_auroc",
    BEST_ON_TEST: f"{BEST_ON_TEST}/image_auroc",
}
"""Metric whose highest value selects the epoch, by `training.select`."""


def fit(
    trainer: Trainer,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    on_epoch: OnEpoch,
    save_diverged: bool,
) -> None:
    """Train a detector, from the run's saved state if there is one.

    save_diverged: if training diverges, log the model of the last saved state. Raises Diverged and
    KeyboardInterrupt with a sentence on how to continue.
    """
    try:
        _fit(trainer, config, splits, tracked, on_epoch)
    except KeyboardInterrupt as error:
        command = f"resume with: vqlab train --resume {tracked.id[:12]}"
        raise type(error)(f"interrupted after epoch {len(trainer.history)}; {command}") from None
    except Diverged as error:
        sentence = _save_last_state(trainer, config, splits, tracked, save_diverged)
        raise Diverged(f"{error} {sentence}") from None


def _fit(
    trainer: Trainer, config: RunConfig, splits: Splits, tracked: Run, on_epoch: OnEpoch
) -> None:
    state = tracked.folder / STATE
    state.parent.mkdir(parents=True, exist_ok=True)
    if state.exists():
        trainer.load(load_state(state))
        for epoch, metrics in enumerate(trainer.history, 1):
            tracked.log_metrics(metrics, step=epoch)
    key = SELECTION_METRICS.get(config.training.select, "")
    saved_at = -math.inf

    def after_epoch(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal saved_at
        metrics |= _validate_epoch(trainer, config, splits, tracked, epoch)
        earlier = [past[key] for past in trainer.history[:-1] if key in past]
        if key in metrics and metrics[key] > max(earlier, default=-1.0):
            trainer.select_epoch()
        if time.monotonic() - saved_at >= STATE_SECONDS:
            save_state(state, trainer.state())
            saved_at = time.monotonic()
        tracked.log_metrics(metrics, step=epoch)
        on_epoch(epoch, config.training.epochs, metrics)

    start = time.monotonic()
    trainer.fit(after_epoch)
    tracked.set_tags({TRAINING_TAG: f"{time.monotonic() - start:.2f}"})
    values = {epoch: past[key] for epoch, past in enumerate(trainer.history, 1) if key in past}
    if values:
        tracked.set_tags({"vqlab.selected_epoch": str(max(values, key=lambda e: values[e]))})


def _validate_epoch(
    trainer: Trainer, config: RunConfig, splits: Splits, tracked: Run, epoch: int
) -> dict[str, float]:
    """Return the validation metrics of an epoch, if due, and the metric for its selection.

    A copy of the detector is calibrated with reduced effort, so that training is unchanged. The
    validation metrics of the last epoch follow after training.
    """
    training = config.training
    last = epoch == training.epochs
    due = training.validate_every > 0 and epoch % training.validate_every == 0 and not last
    key = SELECTION_METRICS.get(training.select, "")
    on_test = training.select == BEST_ON_TEST
    if not (due or on_test or (key and last)):
        return {}
    copied = copy(trainer)
    copied.detector = trainer.averaged_copy()
    model, report = calibrate_and_assess(config, copied, splits, tracked.id, effort=0.2)
    metrics = report.keyed("validation") if due else {}
    if key:
        if on_test:  # to reproduce published tables
            report = evaluate(model.score_set(splits.test), model.thresholds)
        name = key.partition("/")[2]
        if name not in report.mean:
            raise UserError(
                f"setting training.select: {training.select} needs {name}, which is undefined on "
                f"these images; {' '.join(report.notes)} Set training.select=last."
            )
        metrics[key] = report.mean[name]
    return metrics


def _save_last_state(
    trainer: Trainer, config: RunConfig, splits: Splits, tracked: Run, checkpoint: bool
) -> str:
    """Log the last state saved before training diverged as a checkpoint; return a sentence."""
    if not trainer.history:
        return "It diverged in the first epoch, so no state was saved."
    sentence = f"The last finite state is in {tracked.folder / STATE}."
    if not checkpoint:
        return sentence
    try:
        trainer.load(load_state(tracked.folder / STATE))
        epoch = len(trainer.history)
        trainer.detector = trainer.averaged_copy()
        model, _ = calibrate_and_assess(config, trainer, splits, tracked.id)
        model.save(tracked.folder / CHECKPOINT)
        tracked.log_artifact(tracked.folder / CHECKPOINT, "checkpoint", required=True)
    except Exception:  # the divergence is the error to report
        return sentence
    return (
        f"The model after epoch {epoch} is saved; evaluate it with `vqlab evaluate --model "
        f"{tracked.id[:12]}`."
    )
