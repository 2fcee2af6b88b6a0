"""Save what comparing two runs needs, so that they can be compared later."""

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
VALIDATION_EVIDENCE = "validation/evidence.npz"
"""The same for the validation images, of the trials of a sweep."""
_PARTS = tuple(part.name for part in fields(Evidence))


@dataclass(frozen=True)
class Measured:
    """The metrics of one category, and what resampling them needs."""

    metrics: dict[str, float]
    evidence: Evidence


def save_evidence(report: Report, path: Path) -> None:
    """Write the evidence of a report, about 100 kB for 100 images."""
    arrays = {
        f"{visible(category)}/{part}": getattr(evidence, part)
        for category, evidence in report.evidence.items()
        for part in _PARTS
    }
    text = json.dumps({name: report.per_category[name] for name in report.evidence})
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, metrics=np.array(text), **arrays)


def load_evidence(path: Path) -> dict[str, Measured]:
    """Load evidence by category. Raises UserError if `save_evidence` did not write the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            metrics = json.loads(str(file["metrics"]))
            return {
                category: Measured(
                    values, Evidence(*(file[f"{visible(category)}/{part}"] for part in _PARTS))
                )
                for category, values in metrics.items()
            }
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} must be the evidence of a vqlab evaluation ({type(error).__name__}: {error}); "
            "run `vqlab evaluate` again."
        ) from None
