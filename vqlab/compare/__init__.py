"""Compare runs on the same test images: paired intervals, settings that differ, pictures."""

from vqlab.compare.images import TestImage, disagreements, side_by_side
from vqlab.compare.page import log_comparison
from vqlab.compare.pair import Comparison, compare
from vqlab.compare.several import RunsComparison, compare_runs
from vqlab.evaluation import MEAN

__all__ = [
    "MEAN",
    "Comparison",
    "RunsComparison",
    "TestImage",
    "compare",
    "compare_runs",
    "disagreements",
    "log_comparison",
    "side_by_side",
]
