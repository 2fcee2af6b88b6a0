"""Calibration, thresholds and validation of a trained detector, all without the test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from vqlab.config import dump
from vqlab.data import Splits, encode_areas
from vqlab.detectors import Detector
from vqlab.evaluation import Report, Scored, Thresholds, choose_thresholds, evaluate
from vqlab.features import Backbone, CachedRecords, FeatureSet
from vqlab.model import Model, build_detector
from vqlab.run.settings import RunConfig, reused_tags
from vqlab.training import Trainer, calibration_indices, deterministic, seed_everything
from vqlab.version import __version__


def make_trainer(
    config: RunConfig, splits: Splits, device: Any, kind: type[Trainer] = Trainer
) -> Trainer:
    """Return the trainer of a new detector, after seeding."""
    deterministic()
    seed_everything(config.training.seed)
    backbone = Backbone(config.features, config.data.image_size)
    detector = build_detector(config.detector, backbone.spec)
    features = FeatureSet(splits.train.tiled(), backbone.to(device), device)
    return kind(detector.to(device), features, config.training)


def extract_features(
    trainer: Trainer,
    splits: Splits,
    test: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> dict[str, str]:
    """Extract and cache the features of a run before training starts.

    Returns tags of the run: the number of features already cached, and the seconds saved.
    """
    files: dict[Path, CachedRecords] = {}
    sets = [splits.train, splits.validation, *splits.shifted_normals]
    for images in (*sets, *([splits.test] if test else [])):
        progress = partial(on_progress, "extracting features")
        cached = FeatureSet(images.tiled(), trainer.backbone, trainer.device).cached(progress)
        for file in cached.files if cached else ():
            files.setdefault(file.path, file)  # splits share files; the first access may write one
    hits = [file for file in files.values() if file.hit]
    images_cached = sum(len(file.records) for file in hits)
    seconds = sum(file.seconds for file in hits)
    return reused_tags(f"features of {images_cached} images", seconds) if hits else {}


def calibrate_and_assess(
    config: RunConfig, trainer: Trainer, splits: Splits, run_id: str, effort: float = 1.0
) -> tuple[Model, Report]:
    """Calibrate the detector, choose thresholds and evaluate it on the validation images."""
    return assess(calibrated_model(config, trainer, splits, run_id, effort), config, splits)


def calibrated_model(
    config: RunConfig, trainer: Trainer, splits: Splits, run_id: str, effort: float = 1.0
) -> Model:
    """Return the trained model, calibrated, without thresholds.

    Calibration uses training images only: scores fitted to the held-out images would differ from
    those of new images, so that the thresholds would guarantee nothing.
    """
    detector, backbone, device = trainer.detector, trainer.backbone, trainer.device
    calibrate(detector, trainer.features, config.training.unseen_below, effort)
    inspected = encode_areas(splits.areas)
    meta = {
        "config": dump(config),
        "data": {
            "source": splits.source,
            "fingerprint": splits.fingerprint,
            "categories": list(splits.categories),
            "aspect_ratios": {k: list(v) for k, v in splits.train.aspect_ratios().items()},
            **({} if inspected is None else {"inspected": inspected}),
        },
        "run_id": run_id,
        "version": __version__,
    }
    return Model(detector, backbone, config.data, Thresholds(0.0, 0.0), meta, device)


def assess(model: Model, config: RunConfig, splits: Splits) -> tuple[Model, Report]:
    """Return the calibrated model with thresholds, and its report, from the validation images."""
    scored = model.score_set(splits.validation, batch_size=config.evaluation.batch_size)
    return assess_scored(model, config, splits, scored)


def assess_scored(
    model: Model, config: RunConfig, splits: Splits, scored: Scored
) -> tuple[Model, Report]:
    """Return the calibrated model with thresholds, and its report, from the scores of the
    validation images."""
    shifted = scores_of_shifted(model, config, splits)
    thresholds = choose_thresholds(scored, config.threshold, shifted)
    report = evaluate(scored, thresholds, keep_evidence=True)
    meta = {**model.meta, "thresholds": asdict(thresholds), "validation": report.mean}
    return replace(model, thresholds=thresholds, meta=meta), report


def scores_of_shifted(model: Model, config: RunConfig, splits: Splits) -> tuple[Scored, ...]:
    """Score the normal validation images under each shift of `data.shifts`."""
    size = config.evaluation.batch_size
    return tuple(model.score_set(images, batch_size=size) for images in splits.shifted_normals)


def calibrate(
    detector: Detector, train: FeatureSet, unseen_below: int = 0, effort: float = 1.0
) -> None:
    """Calibrate a detector on the training images, see `calibration_indices`."""
    detector.eval()
    held_out = set(calibration_indices(train.images.records, unseen_below))
    most = train.subset([i for i in range(len(train)) if i not in held_out])
    detector.calibrate(most, unseen_in_fitting(train, unseen_below), effort)


def unseen_in_fitting(train: FeatureSet, unseen_below: int) -> FeatureSet:
    """Return the training images held out in calibration, for `fit_normalization`."""
    return train.subset(calibration_indices(train.images.records, unseen_below))
