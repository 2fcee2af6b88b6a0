"""Metadata of an exported file: thresholds, preprocessing and provenance, as JSON."""

from __future__ import annotations

from typing import Any

from vqlab.evaluation import Thresholds, display_unit
from vqlab.model import Model
from vqlab.version import __version__


def describe(
    model: Model, version: int | None = None, shape: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Return the description that `vqlab.runtime` reads; plain JSON values.

    version: registered version of a champion. shape: (H, W) of the network input; None: the
    square. Contains no path of the machine.
    """
    config, data = model.meta["config"], model.data
    height, width = shape or (data.image_size, data.image_size)
    return {
        "format": 1,
        "category": model.category,
        "categories": list(model.categories),
        "detector": config["detector"]["name"],
        "backbone": config["features"]["backbone"],
        "version": version,
        "run": model.meta["run_id"],
        "data_fingerprint": model.meta["data"]["fingerprint"],
        "trained_with": f"vqlab {model.meta['version']}",
        "exported_with": f"vqlab {__version__}",
        "input": f"image: float32 (batch, 3, {height}, {width}), RGB, 0 to 1",
        "output": f"anomaly_map: float32 (batch, {height}, {width}); image_score: float32 "
        "(batch,); higher is more anomalous",
        "preprocessing": {
            "image_size": data.image_size,
            "input_shape": [height, width],
            "resize": data.resize,
            "brightness": data.brightness,
            "bits": data.bits,
            "colour": "RGB",
            **({"inspected": model.area.encode()} if model.area is not None else {}),
            **({"aspect_ratios": list(model.aspect_ratios)} if model.aspect_ratios else {}),
        },
        "thresholds": {
            "image": model.thresholds.image,
            "review": model.thresholds.review,
            "pixel": model.thresholds.pixel,
            "method": model.thresholds.method,
            "target_false_reject_rate": model.thresholds.promised,
            "target_review_or_reject_rate": model.thresholds.promised_review,
            "normal_scores": _normal_scores(model.thresholds),
            "notes": list(model.thresholds.notes),
            "unit": float(display_unit(model.thresholds.image, model.thresholds.calibration)),
        },
    }


def _normal_scores(thresholds: Thresholds) -> list[float]:
    """Return the scores of the held-out normal images, for p-values; empty if they are not
    stored."""
    scores = thresholds.calibration
    return list(scores.scores or scores.quantiles) if scores and scores.exact else []
