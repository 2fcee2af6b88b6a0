"""Evaluation: score a set of images, choose thresholds, compute metrics.

Thresholds are chosen on held-out images, never on the test set.
"""

from vqlab.evaluation.calibration import CalibrationScores, display_unit
from vqlab.evaluation.concepts import Concepts, assign_concepts, with_records
from vqlab.evaluation.evidence import (
    BASELINE_EVIDENCE,
    EVIDENCE,
    VALIDATION_EVIDENCE,
    CategoryEvidence,
    load_evidence,
    save_evidence,
)
from vqlab.evaluation.masks import predicted_mask
from vqlab.evaluation.operating_point import OperatingPoint, count_above, operating_point
from vqlab.evaluation.paired import Paired, paired_differences
from vqlab.evaluation.report import EvaluationSettings, Report, evaluate
from vqlab.evaluation.review import expected_shares, review_sentence
from vqlab.evaluation.scored import Predictions, Scored, crop, crop_panel
from vqlab.evaluation.scoring import (
    Progress,
    extract_images,
    panel_arrays,
    predict_images,
    score_extracted,
    score_images,
)
from vqlab.evaluation.shifts import AS_CAPTURED, ShiftErrors, ShiftTable
from vqlab.evaluation.spool import Budget
from vqlab.evaluation.thresholds import (
    Origin,
    Thresholds,
    ThresholdSettings,
    choose_thresholds,
    combined_scores,
    conformal_threshold,
    guarantee_limit,
    guarantee_note,
)
from vqlab.evaluation.tiles import score_tiles
from vqlab.evaluation.uncertainty import MEAN
from vqlab.verdict import PASS, REJECT, REVIEW, Verdict, verdict_of

__all__ = [
    "Origin",
    "conformal_threshold",
    "AS_CAPTURED",
    "BASELINE_EVIDENCE",
    "ShiftErrors",
    "ShiftTable",
    "EVIDENCE",
    "PASS",
    "REJECT",
    "REVIEW",
    "Budget",
    "CalibrationScores",
    "EvaluationSettings",
    "Concepts",
    "MEAN",
    "CategoryEvidence",
    "OperatingPoint",
    "Paired",
    "Progress",
    "Report",
    "Scored",
    "ThresholdSettings",
    "Thresholds",
    "VALIDATION_EVIDENCE",
    "Verdict",
    "choose_thresholds",
    "combined_scores",
    "count_above",
    "crop",
    "display_unit",
    "evaluate",
    "expected_shares",
    "assign_concepts",
    "load_evidence",
    "operating_point",
    "paired_differences",
    "predicted_mask",
    "review_sentence",
    "guarantee_limit",
    "guarantee_note",
    "extract_images",
    "save_evidence",
    "score_images",
    "score_tiles",
    "score_extracted",
    "verdict_of",
    "Predictions",
    "with_records",
    "crop_panel",
    "predict_images",
    "panel_arrays",
]
