"""Answers of the server: their schema, and their construction from predictions."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from vqlab.data import pixels_digest, resize_map
from vqlab.evaluation import Thresholds
from vqlab.model import Prediction
from vqlab.plots.panels import overlay_picture
from vqlab.serve.champions import ServedModel

Array = NDArray[Any]
MAX_REGIONS = 100
"""Maximum number of regions per image in an answer: those with the highest peaks."""
_LEVELS = 65535


class ErrorAnswer(BaseModel):
    """Body of every answer with status 400 or above."""

    error: str = Field(description="One sentence.")


class ThresholdsAnswer(BaseModel):
    """Thresholds of a model."""

    image: float = Field(description="Images with a higher score are rejected.")
    review: float | None = Field(
        description="Images with a higher score, up to `image`, are in review; null: no review."
    )
    pixel: float = Field(description="Regions above it are marked in rejected images.")
    method: str | None = Field(description="How the thresholds were chosen.")
    promised: float | None = Field(
        description="Upper bound on the expected false-reject rate; null without a guarantee."
    )


class ModelAnswer(BaseModel):
    """The model that scored the images."""

    category: str
    version: int = Field(description="Version in the registry.")
    run_id: str = Field(description="Run that trained it.")
    thresholds: ThresholdsAnswer


class CategoryAnswer(ModelAnswer):
    """A category and its champion."""

    detector: str


class DriftAnswer(BaseModel):
    """The latest drift test of the parts that `vqlab watch` judges."""

    tested: int = Field(description="Parts in the test.")
    wealth: float = Field(
        description="Of the leading stream: at most 1 at the start; an alarm at 1 / level."
    )
    wealths: dict[str, float] = Field(
        description="Of each tested property: score, brightness, sharpness, noise, concept."
    )
    level: float
    alarm: str | None = Field(description="The alarm as a sentence.")
    current: bool = Field(description="Whether the parts are judged by the model that is served.")


class RegionAnswer(BaseModel):
    """A region of the predicted mask; coordinates are pixels of the image."""

    rank: int = Field(description="1 for the region with the highest peak.")
    box: tuple[int, int, int, int] = Field(description="Left, top, width, height.")
    area: int = Field(description="Pixels.")
    area_mm2: float | None = Field(description="null if data.mm_per_pixel is not set.")
    peak: float = Field(description="Highest value of the anomaly map.")
    peak_at: tuple[int, int] = Field(description="Column and row of the peak.")
    contour: list[tuple[int, int]] = Field(description="Columns and rows of its corners.")


class ImageAnswer(BaseModel):
    """The prediction of one image. All other fields but `name` are null if `error` is not."""

    name: str = Field(description="As sent, without control characters.")
    width: int | None = None
    height: int | None = None
    score: float | None = Field(default=None, description="Higher is more anomalous.")
    calibrated: float | None = Field(
        default=None, description="Score in [0, 1] for display, 0.5 at the image threshold."
    )
    p_value: float | None = Field(
        default=None,
        description="Conformal p-value: share of held-out normal images with such a score or a "
        "higher one; null for older models.",
    )
    verdict: Literal["pass", "review", "reject"] | None = None
    regions: list[RegionAnswer] = Field(
        default_factory=list, description=f"At most {MAX_REGIONS}, by descending peak."
    )
    map: str | None = Field(
        default=None, description="Anomaly map, 16-bit PNG in base64: 0 is map_range[0]."
    )
    map_range: tuple[float, float] | None = Field(
        default=None, description="Values of 0 and 65535 in the map."
    )
    overlay: str | None = Field(
        default=None, description="Image with the marked regions, PNG in base64."
    )
    digest: str | None = Field(
        default=None, description="SHA-256 of size and pixels, with `record`; else null."
    )
    note: str | None = Field(
        default=None,
        description="Why the score may mean little: a shape unlike that of all training images.",
    )
    error: str | None = Field(default=None, description="Why the image could not be scored.")


class PredictAnswer(ModelAnswer):
    """Predictions of the images of a request, in order."""

    images: list[ImageAnswer]
    recorded: bool = Field(
        default=False, description="Whether the images were added to the history (`record`)."
    )


class FeedbackAnswer(BaseModel):
    """A stored human verdict."""

    digest: str = Field(description="SHA-256 of size and pixels.")
    verdict: Literal["good", "defect", "unsure"]
    role: Literal["train", "threshold", "test"] | None = Field(
        description="Role that `vqlab feedback` gives the image; null: not used."
    )
    text: str = Field(description="The same as a sentence.")


@dataclass(frozen=True)
class Options:
    """Contents of an answer."""

    with_map: bool = False
    with_overlay: bool = False
    with_digest: bool = False
    min_area: int = 1
    """Regions of fewer pixels are omitted."""
    side: int = 1024
    """Maximum width and height of maps and overlays."""


def thresholds_answer(thresholds: Thresholds) -> dict[str, Any]:
    """Return the fields of ThresholdsAnswer."""
    return {
        "image": thresholds.image,
        "review": thresholds.review,
        "pixel": thresholds.pixel,
        "method": thresholds.method,
        "promised": thresholds.promised,
    }


def model_answer(served: ServedModel) -> dict[str, Any]:
    """Return the fields of ModelAnswer."""
    return {
        "category": served.category,
        "version": served.version,
        "run_id": served.run_id,
        "thresholds": thresholds_answer(served.model.thresholds),
    }


def image_answer(name: str, prediction: Prediction, options: Options) -> dict[str, Any]:
    """Return the fields of ImageAnswer for a prediction."""
    values = prediction.anomaly_map
    height, width = values.shape
    answer = {
        **failed_answer(name, None),
        "width": width,
        "height": height,
        "score": prediction.score,
        "calibrated": prediction.calibrated,
        "p_value": prediction.p_value,
        "verdict": prediction.verdict,
        "note": prediction.note or None,
        "regions": [asdict(r) for r in prediction.regions(options.min_area)[:MAX_REGIONS]],
    }
    if options.with_digest:
        answer["digest"] = pixels_digest(prediction.image)
    size = _within(options.side, height, width)
    if options.with_map:
        answer["map"], answer["map_range"] = encoded_map(_resized(values, size))
    if options.with_overlay:
        answer["overlay"] = _png(
            overlay_picture(prediction.image, prediction.mask, size, prediction.inspected)
        )
    return answer


def failed_answer(name: str, error: str | None) -> dict[str, Any]:
    """Return the fields of ImageAnswer for an image that could not be scored."""
    return ImageAnswer(name=name, error=error).model_dump()


def encoded_map(values: Array) -> tuple[str, tuple[float, float]]:
    """Return a map (h, w) as a 16-bit PNG in base64, and the values of 0 and 65535."""
    low, high = float(values.min()), float(values.max())
    share = (
        (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros_like(values)
    )
    return _png(np.round(share * _LEVELS).astype(np.uint16)), (low, high)


def _within(side: int, height: int, width: int) -> tuple[int, int]:
    """Return the largest size (height, width) of this aspect ratio within a square."""
    factor = min(1.0, side / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _resized(values: Array, size: tuple[int, int]) -> Array:
    return values if values.shape == size else resize_map(values, size)


def _png(pixels: Array) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
