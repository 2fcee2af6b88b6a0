"""Save and load evidence, which comparisons of runs resample."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from vqlab.evaluation.report import Report
from vqlab.metrics import Evidence
from vqlab.text import visible
from vqlab.types import UserError

EVIDENCE = "evaluation/evidence.npz"
"""Artifact with the evidence of a tested run."""
BASELINE_EVIDENCE = "evaluation/mean_image_evidence.npz"
"""Artifact with the evidence of the no-learning baseline on the images of a tested run."""
VALIDATION_EVIDENCE = "validation/evidence.npz"
"""Artifact with the evidence of the validation images of a trial."""
_PARTS = tuple(part.name for part in fields(Evidence))
_OPTIONAL = ("reviewed", "kinds")
"""Parts that may be None, and are then not stored."""


@dataclass(frozen=True)
class CategoryEvidence:
    """The metrics of one category and their evidence."""

    metrics: dict[str, float]
    evidence: Evidence


def save_evidence(report: Report, path: Path) -> None:
    """Save the evidence of a report, about 100 kB per 100 images."""
    arrays = {
        f"{visible(category)}/{part}": getattr(evidence, part)
        for category, evidence in report.evidence.items()
        for part in _PARTS
        if getattr(evidence, part) is not None
    }
    text = json.dumps({name: report.per_category[name] for name in report.evidence})
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, metrics=np.array(text), **arrays)


def load_evidence(path: Path) -> dict[str, CategoryEvidence]:
    """Load evidence by category. Raises UserError if `save_evidence` did not write the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            metrics = json.loads(str(file["metrics"]))
            result = {}
            for category, values in metrics.items():
                keys = {part: f"{visible(category)}/{part}" for part in _PARTS}
                absent = [part for part in _OPTIONAL if keys[part] not in file]
                parts = {part: file[keys[part]] for part in _PARTS if part not in absent}
                result[category] = CategoryEvidence(values, Evidence(**parts))
            return result
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} must be the evidence of a vqlab evaluation ({type(error).__name__}: {error}); "
            "run `vqlab evaluate` again."
        ) from None
