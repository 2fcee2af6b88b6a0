"""A model that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqlab.data.appearance import NORMAL_IMAGES, Appearance, appearance_of
from vqlab.evaluation import Thresholds
from vqlab.evaluation.calibration import CalibrationScores
from vqlab.features import Backbone
from vqlab.model import Model, build_detector
from vqlab.pixels.decoding import read_image
from vqlab.run import resolve


def tiny_model(
    image_threshold: float, normal_scores: Sequence[float] = (), normal: Sequence[Path] = ()
) -> Model:
    """Return a model of category `part` that scores the photos of `small_photos`.

    normal_scores: stored scores of held-out normal images; empty: none are stored. normal: files
    whose properties are stored; empty: as in a checkpoint of an earlier version.
    """
    tree = {"data": {"categories": ["part"], "image_size": 32}, "detector": {"name": "mean_image"}}
    config = resolve(tree)
    backbone = Backbone(config.features, config.data.image_size)
    calibration = CalibrationScores.of(np.array(normal_scores)) if normal_scores else None
    thresholds = Thresholds(image_threshold, 2.0, calibration=calibration)
    meta: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "data": {"categories": ["part"]},
        "thresholds": asdict(thresholds),
    }
    if normal:
        normal_properties = [appearance_of(read_image(path), config.data, None) for path in normal]
        columns = zip(*normal_properties, strict=True)
        meta[NORMAL_IMAGES] = dict(zip(Appearance._fields, map(list, columns), strict=True))
    detector = build_detector(meta["config"]["detector"], backbone.spec).eval()
    detector.sd.fill_(0.2)  # type: ignore[operator, union-attr]
    return Model(detector, backbone, config.data, thresholds, meta, torch.device("cpu"))


def overflowing_model() -> Model:
    """Return a model whose scores are infinite, except of a black image."""
    model = tiny_model(1.0)
    detector_tree = {**model.meta["config"]["detector"], "floor": 1e-45}
    config = {**model.meta["config"], "detector": detector_tree}
    detector = build_detector(detector_tree, model.backbone.spec).eval()
    for buffer in detector.buffers():
        buffer.zero_()
    return replace(model, detector=detector, meta={**model.meta, "config": config})
