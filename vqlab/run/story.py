"""The whole story of one run: data → detector → training → thresholds → report. START HERE.

`run()` tells it in about twenty lines; every step is one call into the room that does it.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from vqlab.checkpoint import load_state, save_state
from vqlab.config import dump, flatten
from vqlab.data import Splits, load_dataset, write_png
from vqlab.evaluation import Predictions, Report, evaluate
from vqlab.model import Model
from vqlab.nn import distributed
from vqlab.plots import attempt, loss_curves
from vqlab.recipes import Data, as_folders
from vqlab.run.calibration import assess_scored, calibrated, extract_features, judge, make_trainer
from vqlab.run.concepts import concept_metrics, training_concepts
from vqlab.run.pages import show_experiment
from vqlab.run.saved import CHECKPOINT, nothing_lost
from vqlab.run.settings import (
    BEST_ON_TEST,
    TRAINED_TAG,
    TRAINING_TAG,
    RunConfig,
    resolve,
    trained_key,
)
from vqlab.run.test_set import OnProgress, has_test, require_test, test_model, without_trained_on
from vqlab.text import category_text, unique_key
from vqlab.tracking import Run, Tracker, category_tags
from vqlab.training import Diverged, SharedTrainer, Trainer, choose_device
from vqlab.types import UserError

OnEpoch = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with (epoch, epochs, metrics); may raise to end the run."""
Assess = Callable[[Model, RunConfig, Splits], tuple[Model, Report]]
"""Chooses scoring and thresholds of a calibrated model and returns its validation report."""
STATE = "state.safetensors"
LOSS = "curves/loss.png"
JOINT = "joint"
"""Experiment of the models of several categories."""
_TAKEN = (JOINT, "Default")
"""Names of experiments that are no category's: MLflow makes `Default` itself."""
_NOT_IN_EXPERIMENTS = r"[\x00-\x1f\x7f\ud800-\udfff]"
STATE_SECONDS = 1.0
"""At least so long between two writings of a training's state: an epoch that takes less is trained
again sooner than written."""
CHOSEN_BY = {
    "best_on_validation": "best_on_validation/pixel_auroc",
    BEST_ON_TEST: f"{BEST_ON_TEST}/image_auroc",
}
"""Metric whose highest value chooses the epoch, by `training.select`."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    run_id: str
    model: Model
    checkpoint: Path
    validation: Report
    test: Report | None
    """None where there are no test images."""
    beside: dict[str, Report]
    """Other scores on the same test images: the detector's own, and the baseline `mean_image`."""
    pictures: Path | None
    seconds: float
    last_epoch: dict[str, float]
    """Metrics of the last epoch of training; empty where nothing was trained."""
    test_split: str = "test"
    """`best_on_test` where the test set chose the epoch, so that `test` is no fair measure."""
    link: str = ""
    """Address of the run in the UI."""


def run(
    config: RunConfig,
    tracker: Tracker,
    *,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    parent: str | None = None,
    resumed: Run | None = None,
    splits: Splits | None = None,
    test: bool = True,
    results: Path = Path("results"),
    assess: Assess | None = None,
    on_epoch: OnEpoch = lambda epoch, epochs, metrics: None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Outcome:
    """Train, calibrate and judge one model, and record it as one tracked run.

    `test=False` leaves the test set alone (a trial of a sweep); where there are no test images the
    run is measured on validation alone. `resumed` is a run to write into; where it is open already
    it stays so. `on_epoch` may raise to end the run. Raises UserError for every mistake that can be
    known, most of them before work starts.
    """
    if config.training.select == BEST_ON_TEST and not test:
        raise UserError(
            "setting training.select: best_on_test looks at the test set, which a sweep must not; "
            "set training.select=last."
        )
    started = time.monotonic()
    device = choose_device(config.training)
    splits = splits or load_dataset(config.data)
    if config.training.select == "best_on_validation":
        splits.require_defined("validation/pixel_auroc", "set training.select=last")
    tested = test and has_test(splits, config)
    kind = SharedTrainer if distributed.ranks() > 1 else Trainer
    trainer = make_trainer(config, splits, device, kind)
    reused = extract_features(trainer, splits, tested, on_progress)
    with (
        nothing_lost() as saved,
        resumed or start(tracker, config, splits, name, tags, parent) as tracked,
    ):
        tracked.set_tags(reused)
        try:
            _train(trainer, config, splits, tracked, on_epoch)
        except KeyboardInterrupt as error:
            how = f"go on with: vqlab train --resume {tracked.id[:12]}"
            raise type(error)(f"interrupted after epoch {len(trainer.history)}; {how}") from None
        except Diverged as error:
            kept = _keep_the_last_good(trainer, config, splits, tracked, checkpoint=test)
            raise Diverged(f"{error} {kept}") from None
        model = calibrated(config, trainer, splits, tracked.id)
        predictions: Predictions | None = None
        if assess is None:
            predictions = model.predict_set(
                splits.validation, batch_size=config.evaluation.batch_size, alternatives=tested
            )
            model, validation = assess_scored(model, config, predictions.scored)
        else:
            model, validation = assess(model, config, splits)
        saved.save(model, tracked, results)
        if test and trainer.history:  # drawing takes longer than a trial's tracking
            with attempt(LOSS):
                tracked.log_figure(loss_curves(trainer.history), LOSS)
        report, pictures = None, None
        beside: dict[str, Report] = {}
        concepts = training_concepts(model, splits)
        metrics = validation.keyed("validation") | concept_metrics(concepts, "codebook")
        tracked.log_metrics(metrics, step=config.training.epochs)
        tracked.log_artifact(saved.file, "checkpoint", required=True)
        if tested:
            report, beside, pictures = test_model(
                model, config, splits, tracked, results, on_progress,
                validation=predictions, concepts=concepts,
            )  # fmt: skip
        elif test:
            notes = (*validation.notes, *splits.notes)
            validation = replace(validation, notes=notes)
        checkpoint = tracked.artifact(f"checkpoint/{CHECKPOINT}")
    for folder in {tracked.folder, saved.file.parent}:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        tracked.id, model, checkpoint, validation, report, beside, pictures,
        time.monotonic() - started, dict(trainer.history[-1]) if trainer.history else {},
        config.test_split, tracked.link,
    )  # fmt: skip


def experiment_of(splits: Splits) -> str:
    """Return the experiment of runs on these data: their category, or `joint` for several."""
    if len(splits.categories) > 1:
        return JOINT
    name = splits.categories[0]
    return unique_key(name, _NOT_IN_EXPERIMENTS, with_digest=name in _TAKEN)


def start(
    tracker: Tracker,
    config: RunConfig,
    splits: Splits,
    name: str | None,
    tags: Mapping[str, str] | None,
    parent: str | None,
) -> Run:
    """A tracked run with its settings, data set and origin recorded before work starts."""
    categories = category_text(splits.categories)
    tree = dump(config)
    tracked = tracker.start(
        experiment=experiment_of(splits),
        name=name or f"{config.detector['name']}-{categories}",
        tags={
            "vqlab.kind": "train",
            "vqlab.detector": config.detector["name"],
            **category_tags(splits.categories),
            "vqlab.data": splits.source,
            "vqlab.data_fingerprint": splits.fingerprint,
            "vqlab.test_fingerprint": splits.test_fingerprint,
            "vqlab.validation": config.data.validation.described,
            "vqlab.seed": str(config.training.seed),
            "vqlab.processes": str(distributed.ranks()),
            TRAINED_TAG: trained_key(config, splits.fingerprint),
            **config.features.tags,
            **({"vqlab.selected_on": "test"} if config.test_split == BEST_ON_TEST else {}),
            **(tags or {}),
        },
        params=flatten(tree),
        parent=parent,
        device=str(choose_device(config.training)),
        system_metrics=parent is None,
    )
    tracked.log_yaml(tree, "config.yaml")
    tracked.log_dataset(
        f"{splits.source}/{categories}", splits.fingerprint, str(splits.root), context="training"
    )
    if parent is None:
        log_data(tracked, splits)
        with tracked.handle_errors("views of the experiment"):
            show_experiment(tracker, splits, experiment_of(splits))
    return tracked


def log_data(tracked: Run, splits: Splits) -> None:
    """Which image is in which split, and the validation images as a sheet; a study's trials have
    the same ones, which lie with the study."""
    with tempfile.TemporaryDirectory() as folder:
        splits.write_table(Path(folder) / "splits.csv")
        with attempt("validation.png"):
            write_png(splits.validation_sheet, Path(folder) / "validation.png")
        tracked.log_artifacts(Path(folder), "data")


def _train(
    trainer: Trainer,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    on_epoch: OnEpoch,
) -> None:
    state = tracked.folder / STATE
    state.parent.mkdir(parents=True, exist_ok=True)
    if state.exists():
        trainer.load(load_state(state))
        for epoch, metrics in enumerate(trainer.history, 1):
            tracked.log_metrics(metrics, step=epoch)

    key = CHOSEN_BY.get(config.training.select, "")
    written = -math.inf

    def after(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal written
        metrics |= _judged_meanwhile(trainer, config, splits, tracked, epoch)
        before = [past[key] for past in trainer.history[:-1] if key in past]
        if key in metrics and metrics[key] > max(before, default=-1.0):
            trainer.keep()
        if time.monotonic() - written >= STATE_SECONDS:
            save_state(state, trainer.state())
            written = time.monotonic()
        tracked.log_metrics(metrics, step=epoch)
        on_epoch(epoch, config.training.epochs, metrics)

    began = time.monotonic()
    trainer.fit(after)
    tracked.set_tags({TRAINING_TAG: f"{time.monotonic() - began:.2f}"})
    figures = {epoch: past[key] for epoch, past in enumerate(trainer.history, 1) if key in past}
    if figures:
        tracked.set_tags({"vqlab.selected_epoch": str(max(figures, key=lambda e: figures[e]))})


def _judged_meanwhile(
    trainer: Trainer, config: RunConfig, splits: Splits, tracked: Run, epoch: int
) -> dict[str, float]:
    """What judging says of an epoch: validation where that is due, and what chooses the epoch.

    A copy is judged, with less effort: judging calibrates, and must not change training. The last
    epoch's own validation metrics come after training.
    """
    training = config.training
    last = epoch == training.epochs
    due = training.validate_every > 0 and epoch % training.validate_every == 0 and not last
    chosen_by = CHOSEN_BY.get(training.select, "")
    on_test = training.select == BEST_ON_TEST
    if not (due or on_test or (chosen_by and last)):
        return {}
    copied = copy(trainer)
    copied.detector = trainer.judged()
    model, report = judge(config, copied, splits, tracked.id, effort=0.2)
    metrics = report.keyed("validation") if due else {}
    if chosen_by:
        # The papers' habit, for reproducing their tables, looks at the test set.
        found = evaluate(model.score_set(splits.test), model.thresholds) if on_test else report
        figure = chosen_by.partition("/")[2]
        if figure not in found.mean:
            raise UserError(
                f"setting training.select: {training.select} needs {figure}, which these images "
                f"do not give; {' '.join(found.notes)} Set training.select=last."
            )
        metrics[chosen_by] = found.mean[figure]
    return metrics


def _keep_the_last_good(
    trainer: Trainer, config: RunConfig, splits: Splits, tracked: Run, checkpoint: bool
) -> str:
    """The last state that was written before training diverged, as a checkpoint of the run; the
    sentence that says so."""
    if not trainer.history:
        return "It was in its first epoch: there is nothing to keep."
    words = f"Its last good state is kept in {tracked.folder / STATE}."
    if not checkpoint:
        return words
    try:
        trainer.load(load_state(tracked.folder / STATE))
        good = len(trainer.history)
        trainer.detector = trainer.judged()
        model, _ = judge(config, trainer, splits, tracked.id)
        model.save(tracked.folder / CHECKPOINT)
        tracked.log_artifact(tracked.folder / CHECKPOINT, "checkpoint", required=True)
    except Exception:  # why training failed matters more than what goes wrong afterwards
        return words
    return (
        f"The model after epoch {good} is kept: score with it by `vqlab evaluate --model "
        f"{tracked.id[:12]}`."
    )


def evaluate_model(
    model: Model,
    data: Data,
    tracker: Tracker,
    results: Path,
    on_progress: OnProgress = lambda what, done, total: None,
) -> tuple[Report, Path]:
    """Score the test set of a data folder (default: the one trained on) as a run of its own.

    Raises UserError where there are no test images.
    """
    config = resolve(as_folders(data).over(model.meta["config"]))
    splits = load_dataset(config.data)
    require_test(splits, "to evaluate a model on")
    splits = without_trained_on(model, config, splits)
    tags = {"vqlab.kind": "evaluate", "vqlab.model_run": model.meta["run_id"]}
    name = f"evaluate-{config.detector['name']}-{category_text(splits.categories)}"
    with start(tracker, config, splits, name, tags, None) as tracked:
        report, _, pictures = test_model(model, config, splits, tracked, results, on_progress)
    return report, pictures
