"""Metrics: arrays in, floats out. Right for any real scores; higher is more anomalous."""

from vqlab.metrics.bootstrap import (
    LEVEL,
    Difference,
    Evidence,
    Interval,
    distributions,
    intervals,
    paired_difference,
    resample,
)
from vqlab.metrics.direction import less_is_better
from vqlab.metrics.groups import Curve
from vqlab.metrics.information import entropy, mutual_information, purity
from vqlab.metrics.regions import Regions
from vqlab.metrics.stream import Histogram, PixelStream
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
    "LEVEL",
    "Curve",
    "Difference",
    "Evidence",
    "Histogram",
    "Interval",
    "PixelStream",
    "Regions",
    "Summary",
    "distributions",
    "entropy",
    "image_metrics",
    "intervals",
    "less_is_better",
    "mutual_information",
    "paired_difference",
    "pixel_metrics",
    "purity",
    "resample",
    "summarise_images",
    "summarise_pixels",
]
