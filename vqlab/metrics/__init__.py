"""Metrics: arrays in, floats out. Right for any real scores; higher is more anomalous."""

from vqlab.metrics.bootstrap import (
    CONSTANT,
    TOO_FEW,
    Evidence,
    distributions,
    enough,
    intervals,
    least_auroc,
    paired_difference,
    resample,
)
from vqlab.metrics.direction import less_is_better
from vqlab.metrics.groups import Curve
from vqlab.metrics.information import entropy, mutual_information, purity
from vqlab.metrics.interval import LEVEL, Difference, Interval
from vqlab.metrics.names import HEADLINES
from vqlab.metrics.proportions import (
    ANOMALOUS_IMAGES,
    NORMAL_IMAGES,
    RATES,
    Count,
    paired_rates,
    rate_counts,
    rate_interval,
)
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
    "ANOMALOUS_IMAGES",
    "CONSTANT",
    "FPR_LIMIT",
    "HEADLINES",
    "LEVEL",
    "NORMAL_IMAGES",
    "RATES",
    "TOO_FEW",
    "Count",
    "Curve",
    "Difference",
    "Evidence",
    "Histogram",
    "Interval",
    "PixelStream",
    "Regions",
    "Summary",
    "distributions",
    "enough",
    "entropy",
    "image_metrics",
    "intervals",
    "least_auroc",
    "less_is_better",
    "mutual_information",
    "paired_difference",
    "paired_rates",
    "pixel_metrics",
    "purity",
    "rate_counts",
    "rate_interval",
    "resample",
    "summarise_images",
    "summarise_pixels",
]
