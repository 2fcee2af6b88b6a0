"""Metrics: arrays in, floats out. Right for any real scores; higher is more anomalous."""

from vqlab.metrics.ranking import Curve
from vqlab.metrics.summary import (
    FPR_LIMIT,
    Summary,
    image_metrics,
    pixel_metrics,
    summarise_images,
    summarise_pixels,
)

__all__ = [
    "FPR_LIMIT",
    "Curve",
    "Summary",
    "image_metrics",
    "pixel_metrics",
    "summarise_images",
    "summarise_pixels",
]
