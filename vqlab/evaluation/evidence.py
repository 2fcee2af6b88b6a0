"""What a report rests on, as a file: so that two runs can be compared long after both."""

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
"""Where a run keeps it among its artifacts."""
VALIDATION_EVIDENCE = "validation/evidence.npz"
"""The same of the validation images, kept by the trials of a sweep."""
_PARTS = tuple(part.name for part in fields(Evidence))


@dataclass(frozen=True)
class Measured:
    """One category of a report: its metrics, and what resampling them needs."""

    metrics: dict[str, float]
    evidence: Evidence


def save_evidence(report: Report, path: Path) -> None:
    """Write the evidence of a report; some 100 kB for 100 images."""
    arrays = {
        f"{visible(category)}/{part}": getattr(evidence, part)
        for category, evidence in report.evidence.items()
        for part in _PARTS
    }
    text = json.dumps({name: report.per_category[name] for name in report.evidence})
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, allow_pickle=False, metrics=np.array(text), **arrays)


def load_evidence(path: Path) -> dict[str, Measured]:
    """What `save_evidence` wrote, by category. Raises UserError for another file."""
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
