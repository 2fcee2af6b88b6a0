"""Evaluation: score a set of images, choose thresholds on normal ones, report what they are worth.

Thresholds are chosen from held-out images and never see the test set.
"""

from vqlab.evaluation.report import Report, evaluate
from vqlab.evaluation.scoring import Progress, Scored, Scorer, crop, score_images
from vqlab.evaluation.thresholds import Thresholds, ThresholdSettings, choose_thresholds

__all__ = [
    "Progress",
    "Report",
    "Scored",
    "Scorer",
    "ThresholdSettings",
    "Thresholds",
    "choose_thresholds",
    "crop",
    "evaluate",
    "score_images",
]
