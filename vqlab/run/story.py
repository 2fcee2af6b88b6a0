"""One run: data → detector → training → thresholds → report. START READING HERE."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vqlab.config import dump, flatten
from vqlab.data import Splits, areas_differ, load_dataset, write_png
from vqlab.evaluation import Predictions, Report, review_sentence
from vqlab.model import Model
from vqlab.nn import distributed
from vqlab.plots import attempt, loss_curves
from vqlab.recipes import Data, as_folders
from vqlab.run.calibration import assess_scored, calibrated_model, extract_features, make_trainer
from vqlab.run.concepts import concept_metrics, training_concepts
from vqlab.run.description import describe_run
from vqlab.run.fit import STATE, OnEpoch, fit
from vqlab.run.limits import limit_settings
from vqlab.run.normal_images import with_normal_images
from vqlab.run.pages import show_experiment
from vqlab.run.saved import CHECKPOINT, explain_recovery
from vqlab.run.settings import BEST_ON_TEST, TRAINED_TAG, RunConfig, resolve, trained_key
from vqlab.run.test_set import OnProgress, has_test, require_test, test_model, without_trained_on
from vqlab.text import category_text, folder_name, unique_key
from vqlab.tracking import NOTE, Run, Tracker, category_tags
from vqlab.training import SharedTrainer, Trainer, choose_device
from vqlab.types import UserError

Assess = Callable[[Model, RunConfig, Splits], tuple[Model, Report]]
"""Chooses scoring and thresholds of a calibrated model; returns it with its validation report."""
LOSS = "curves/loss.png"
TRAINING_CPU = "cost/training_cpu_seconds"
"""Metric of a run: CPU-seconds (all threads) from extracted features to the calibrated model."""
REVIEW_TAG = "vqlab.review"
"""Tag of a run with a review threshold: the expected shares of normal images by verdict."""
JOINT = "joint"
"""Experiment of models of several categories."""
UNTRAINED = (
    "With training.epochs=0 the detector keeps its initial weights, so its metrics say "
    "nothing about the recipe; set training.epochs to 1 or more."
)
"""Note of a run whose detector has weights that are not trained."""
_RESERVED = (JOINT, "Default")
"""Names of other experiments; MLflow creates `Default`."""
_NOT_IN_EXPERIMENTS = r"[\x00-\x1f\x7f\ud800-\udfff]"


@dataclass(frozen=True)
class Recording:
    """How a run is recorded."""

    name: str | None = None
    """Of a new run; default: detector and categories."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Of a new run, beside those that every run has."""
    resumed: Run | None = None
    """An existing run to continue instead of a new one; it stays open if it is."""
    results: Path = Path("results")
    """Folder of the test pictures and of a checkpoint that the tracking store does not accept."""


NEW_RUN = Recording()


@dataclass(frozen=True)
class Outcome:
    """Result of a run."""

    run_id: str
    model: Model = field(repr=False)
    checkpoint: Path
    validation: Report = field(repr=False)
    test: Report | None = field(repr=False)
    """None without test images."""
    other_reports: dict[str, Report] = field(repr=False)
    """Reports of other scores on the test images: the detector's alternatives, and the baseline
    `mean_image`."""
    pictures: Path | None
    seconds: float
    last_epoch: dict[str, float]
    """Metrics of the last epoch; empty if nothing was trained."""
    test_split: str = "test"
    """`best_on_test` if the test set selected the epoch, so that `test` is biased."""
    link: str = ""
    """Address of the run in the UI."""


def run(
    config: RunConfig,
    tracker: Tracker,
    recording: Recording = NEW_RUN,
    *,
    splits: Splits | None = None,
    test: bool = True,
    assess: Assess | None = None,
    on_epoch: OnEpoch = lambda epoch, epochs, metrics: None,
    on_progress: OnProgress = lambda task, done, total: None,
) -> Outcome:
    """Train, calibrate and evaluate one model as one tracked run.

    splits: of the configured dataset if they are loaded. test: False for a trial of a sweep, which
    must not use the test set. on_epoch may raise to end the run. Raises UserError for invalid
    settings and data, in most cases before training starts.
    """
    start_time = time.monotonic()
    device = choose_device(config.training)
    splits = splits or load_dataset(config.data)
    has_test_images = _check_splits(config, splits, test)
    identity = config  # as it was asked for, by which the run is found again
    if test:  # a trial of a sweep is refused instead: its value would count for other settings
        config, splits = limit_settings(config, splits)
    kind = SharedTrainer if distributed.ranks() > 1 else Trainer
    trainer = make_trainer(config, splits, device, kind)
    if trainer.untrained and test:
        splits = replace(splits, notes=(*splits.notes, UNTRAINED))
    reused = extract_features(trainer, splits, has_test_images, on_progress)
    with (
        explain_recovery() as saved,
        recording.resumed
        or start(tracker, identity, splits, recording.name, recording.tags) as tracked,
    ):
        tracked.set_tags(reused)
        model = _train(trainer, config, splits, tracked, on_epoch, save_diverged=test)
        model, validation, predictions = _assess(model, config, splits, assess, has_test_images)
        if sentence := review_sentence(model.thresholds):
            tracked.set_tags({REVIEW_TAG: sentence})
        saved.save(model, tracked, recording.results)
        _log_losses(tracked, trainer.history if test else [])  # not for trials: drawing is slow
        concepts = training_concepts(model, splits)
        metrics = validation.keyed("validation") | concept_metrics(concepts, "codebook")
        tracked.log_metrics(metrics, step=config.training.epochs)
        tracked.log_artifact(saved.file, "checkpoint", required=True)
        tested: tuple[Report | None, dict[str, Report], Path | None] = (None, {}, None)
        if has_test_images:
            tested = test_model(
                model, config, splits, tracked, recording.results, on_progress, predictions,
                concepts,
            )  # fmt: skip
        else:
            notes = splits.notes if test else ()
            validation = _describe_untested(tracked, config, splits, model, validation, notes)
        checkpoint = tracked.artifact(f"checkpoint/{CHECKPOINT}")
    for folder in {tracked.folder, saved.file.parent}:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(
        tracked.id, model, checkpoint, validation, *tested,
        seconds=time.monotonic() - start_time, test_split=config.test_split, link=tracked.link,
        last_epoch=dict(trainer.history[-1]) if trainer.history else {},
    )  # fmt: skip


def _train(
    trainer: Trainer,
    config: RunConfig,
    splits: Splits,
    tracked: Run,
    on_epoch: OnEpoch,
    save_diverged: bool,
) -> Model:
    """Return the fitted and calibrated model; log the CPU time of both."""
    cpu, repeated = time.process_time(), (tracked.folder / STATE).exists()
    fit(trainer, config, splits, tracked, on_epoch, save_diverged=save_diverged)
    model = calibrated_model(config, trainer, splits, tracked.id)
    if not repeated:  # else an earlier process did a part
        tracked.log_metrics({TRAINING_CPU: time.process_time() - cpu})
    return model


def _log_losses(tracked: Run, history: Sequence[Mapping[str, float]]) -> None:
    """Draw the metrics of all epochs, if there are any."""
    if any(history):
        with attempt(LOSS):
            tracked.log_figure(loss_curves(history), LOSS)


def _describe_untested(
    tracked: Run,
    config: RunConfig,
    splits: Splits,
    model: Model,
    validation: Report,
    notes: Sequence[str],
) -> Report:
    """Set the description of a run that is not evaluated on test images; return its validation
    report with further notes."""
    validation = replace(validation, notes=(*validation.notes, *notes))
    reports = {"validation": validation}
    note = describe_run(config, splits, model.thresholds, reports, tracked.id)
    tracked.set_tags({NOTE: note})
    return validation


def _assess(
    model: Model, config: RunConfig, splits: Splits, assess: Assess | None, alternatives: bool
) -> tuple[Model, Report, Predictions | None]:
    """Return the model with thresholds and lists of normal images, its validation report, and the
    predictions that it is based on, if `assess` is None."""
    predictions = None
    if assess is not None:
        model, report = assess(model, config, splits)
    else:
        predictions = model.predict_set(
            splits.validation, batch_size=config.evaluation.batch_size, alternatives=alternatives
        )
        model, report = assess_scored(model, config, splits, predictions.scored)
    return with_normal_images(model, splits), report, predictions


def _check_splits(config: RunConfig, splits: Splits, test: bool) -> bool:
    """Return whether to evaluate on test images. Raises UserError if the splits lack those that
    `training.select` needs."""
    if config.training.select == BEST_ON_TEST and not test:
        raise UserError(
            "setting training.select: best_on_test is not allowed in a sweep, which must not use "
            "the test set; set training.select=last."
        )
    if config.training.select == "best_on_validation":
        splits.require_defined("validation/pixel_auroc", "set training.select=last")
    return test and has_test(splits, config)


def experiment_of(splits: Splits) -> str:
    """Return the experiment of runs on these data: their category, or `joint` for several."""
    if len(splits.categories) > 1:
        return JOINT
    name = splits.categories[0]
    return unique_key(name, _NOT_IN_EXPERIMENTS, with_digest=name in _RESERVED)


def start(
    tracker: Tracker,
    config: RunConfig,
    splits: Splits,
    name: str | None,
    tags: Mapping[str, str] | None,
    parent: str | None = None,
) -> Run:
    """Start a tracked run with its settings, dataset and tags, nested under the run ID `parent`."""
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
    """Log the split of every image, a contact sheet of the validation images, and inspected areas
    that are not whole images."""
    with tempfile.TemporaryDirectory() as folder:
        splits.write_table(Path(folder) / "splits.csv")
        with attempt("validation.png"):
            write_png(splits.validation_sheet, Path(folder) / "validation.png")
        separate = areas_differ(splits.areas)
        for category, area in splits.areas.items():
            name = f"inspected_area_{folder_name(category)}" if separate else "inspected_area"
            if area is not None:
                write_png(area.mask.astype(np.uint8) * 255, Path(folder) / f"{name}.png")
        tracked.log_artifacts(Path(folder), "data")


def evaluate_model(
    model: Model,
    data: Data,
    tracker: Tracker,
    results: Path,
    on_progress: OnProgress = lambda task, done, total: None,
    shifts: int = 0,
) -> tuple[Report, Path]:
    """Evaluate a model on the test set of a folder (default: the training data) as a new run.

    shifts: maximum number of normal, and of anomalous, images also scored under capture shifts.
    Returns the report and the folder of the pictures. Raises UserError without test images.
    """
    config = resolve(as_folders(data).over(model.meta["config"]))
    splits = load_dataset(config.data, area_of=model.area_of)
    require_test(splits, "to evaluate a model on")
    splits = without_trained_on(model, config, splits)
    evaluation = config.evaluation.model_copy(update={"shifts": shifts})
    config = config.model_copy(update={"evaluation": evaluation})
    tags = {"vqlab.kind": "evaluate", "vqlab.model_run": model.meta["run_id"]}
    name = f"evaluate-{config.detector['name']}-{category_text(splits.categories)}"
    with start(tracker, config, splits, name, tags) as tracked:
        tested = test_model(model, config, splits, tracked, results, on_progress)
    with tracked.handle_errors("metrics of the registered model"):
        tracker.registry.add_evaluation(str(model.meta["run_id"]), tracked.id)
    return tested.report, tested.pictures
